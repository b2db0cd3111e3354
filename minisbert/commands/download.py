"""`minisbert download`: download models, and print their paths."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import Name, OptionalFolder


def download(
    name: Positional[Name],
    more: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]")] = (),
    *,
    revision: Annotated[str | None, arg(metavar="REVISION")] = None,
    cache: OptionalFolder = None,
    offline: bool = False,
    verify: bool = False,
) -> int:
    """Download models into the cache, and print their paths.

    Example: minisbert download all-mpnet-base-v2

    Args:
        name: a known name, or a name on the hub (org/name).
        more: more names.
        revision: a branch, tag or commit of the hub repository.
        cache: the folder of downloaded models, instead of the user's cache folder.
        offline: only check that the models are on this machine; never open a socket.
        verify: compare every file with its sha256 again, and download damaged ones again.
    """
    from minisbert.download.locate import locate

    for each in (name, *more):
        place = Path(cache) if cache else None
        folder = locate(each, revision=revision, cache=place, offline=offline, verify=verify)
        # One path per line and nothing else on stdout, for `model=$(minisbert download ...)`.
        print(folder, flush=True)
    return 0
