"""Downloads models from the Hugging Face hub: only the files an encoder needs, resumable, each file verified.

`huggingface_hub` talks to the hub, but the bytes are read here: `hf_hub_download` deletes its partial file on failure, while a
download of 438 MB should resume, and a machine that cannot reach the hub should find out within seconds.
"""

import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from minisbert.download import staging as stage
from minisbert.download.catalog import FileRecord, Model
from minisbert.errors import DownloadError

CONNECT_SECONDS = 5.0  # one connection, and one answer of the listing
READ_SECONDS = 15.0  # without receiving a byte of a file
LISTING_SECONDS = 12.0  # the whole first exchange, with the name look-up, which no client time-out covers

# The files of an encoder, at the top level or in a module's folder (1_Pooling, 2_Dense, 2_Dense_1024, a Router's
# query_0_Transformer, which may be inside the Router's own), or an adapter's. No pickle, no code, no exports.
_MODULE = r"(?:(?:[\w-]+_)?\d+_[A-Za-z0-9_-]+/){0,2}"
_SETTINGS = r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.(?:json|txt)|(?:sentencepiece\.bpe|spiece|spm|tokenizer)\.model"
_TEMPLATE = r"chat_template\.jinja"  # never run: a model that needs it is refused
_WEIGHTS = r"model(?:-\d+-of-\d+)?\.safetensors|adapter_model\.safetensors"
_ADAPTERS = r"[\w-]+/adapter_(?:config\.json|model\.safetensors)"  # of which SentenceEncoder chooses one
_WANTED = re.compile(f"{_MODULE}(?:{_SETTINGS}|{_TEMPLATE}|{_WEIGHTS})|{_ADAPTERS}")
_PICKLE = re.compile(_MODULE + r"pytorch_model(?:-\d+-of-\d+)?\.bin")
# Errors of the local disk; an OSError of the network has other numbers.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
_Answer = TypeVar("_Answer")


def adopt(model: Model, staging: Path, show_progress: bool) -> stage.Delivery:
    """Take the files of a model in the catalog from the user's Hugging Face cache. Never opens a socket."""
    from huggingface_hub import try_to_load_from_cache

    def link(name: str, record: FileRecord, arrived: Path) -> bool:
        # "main" as well: the newest commit usually still has the same file, and the digest decides.
        cached = (try_to_load_from_cache(model.repository, name, revision=at) for at in (model.revision, "main"))
        good = next((p for p in cached if isinstance(p, str) and not stage.problem_with(Path(p), record)), None)
        if good is not None:
            arrived.unlink(missing_ok=True)
            try:
                os.link(Path(good).resolve(), arrived)  # no second copy of the weights if the disk allows it
            except OSError:
                shutil.copyfile(good, arrived)
        return good is not None

    absent = stage.collect(staging, model.files, link)
    if absent:
        raise DownloadError(f"it lacks {len(absent)} of {len(model.files)} files: {', '.join(absent[:3])}, ...")
    return stage.Delivery(model.files, "Hugging Face cache", "catalog", model.revision)


def fetch(model: Model, staging: Path, show_progress: bool, token: str | bool | None = None) -> stage.Delivery:
    """Download a model's files from the hub into staging, resuming where an earlier run stopped.

    Raises:
        DownloadError: the hub cannot be reached, has no such model, has pickled weights only, or sends other bytes.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from tqdm import tqdm

    with _plain_errors(model):
        options: Any = {"revision": model.revision, "files_metadata": True, "timeout": CONNECT_SECONDS}
        info = _within(LISTING_SECONDS, lambda: HfApi().model_info(model.repository, token=token, **options))
        commit = info.sha or model.revision
        listed: dict[str, FileRecord] = {}  # sha256 for files in LFS, git's sha1 for files in git
        for one in info.siblings or ():
            lfs, size = one.lfs, one.lfs.size if one.lfs else one.size
            if isinstance(one.rfilename, str) and isinstance(size, int):
                listed[one.rfilename] = FileRecord(size, lfs.sha256 if lfs else None, None if lfs else one.blob_id)
        files = model.files or _encoder_files(model.repository, listed)
        for name, record in model.files.items():  # before downloading 438 MB for nothing
            theirs = listed.get(name, FileRecord(0))
            if theirs.size != record.size or theirs.sha256 not in (None, record.sha256):
                raise DownloadError(
                    f"{name} there has {theirs.size} bytes, sha256 {theirs.sha256}; the catalog says {record.size} "
                    f"bytes, {record.sha256}"
                )
        total = sum(record.size for record in files.values())
        with tqdm(total=total, unit="B", unit_scale=True, desc=model.name, disable=not show_progress) as bar:

            def read(name: str, record: FileRecord, arrived: Path) -> None:
                url = hf_hub_url(model.repository, name, revision=commit)
                _read_file(url, arrived, record.size, bar.update, token)

            stage.collect(staging, files, read, bar.update)
    return stage.Delivery(files, "hub", "catalog" if model.verified else "hub", commit)


def _encoder_files(repository: str, listed: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    """The listed files to fetch. The pattern excludes `..`, absolute paths and every folder but a module's."""
    wanted = {name: record for name, record in listed.items() if _WANTED.fullmatch(name) and name != stage.MANIFEST}
    folders_with_weights = {name.rpartition("/")[0] for name in wanted if name.endswith(".safetensors")}
    pickled = [n for n in listed if _PICKLE.fullmatch(n) and n.rpartition("/")[0] not in folders_with_weights]
    if pickled:
        from minisbert.checkpoint.tensors import unpickle_recipe  # reads tensors: not loaded by a download

        raise DownloadError(
            f"{repository} has its weights as a pickle only ({', '.join(pickled)}), and reading a pickle can run any "
            f"code. Fetch it with `hf download {repository} --local-dir FOLDER`; SentenceEncoder(FOLDER, "
            "allow_pickle_weights=True) then reads its tensors and nothing else. Or convert it on a machine you trust, in the "
            "file's folder:\n      " + unpickle_recipe()
        )
    if not folders_with_weights or not {"config.json", "modules.json", "adapter_config.json"} & wanted.keys():
        raise DownloadError(f"{repository} has no model.safetensors with a config.json or modules.json: not an encoder")
    unproven = [name for name, record in wanted.items() if not (record.sha256 or record.git_sha1)]
    if unproven:
        raise DownloadError(f"the listing gives no digest for {', '.join(unproven)}")
    return wanted


def _read_file(url: str, arrived: Path, size: int, advance: Callable[[int], object], token: str | bool | None) -> None:
    """Read one file, appending to what has arrived; retry as long as every attempt makes progress."""
    if arrived.exists() and arrived.stat().st_size > size:
        arrived.unlink()
    with arrived.open("ab") as out:
        advance(out.tell())
        while (before := out.tell()) < size:
            failure: Exception = DownloadError(f"{url} ends before its {size} bytes")
            try:
                _append_from(url, out, size, advance, token)
            except Exception as error:  # a dropped connection has another type in each client and release
                failure = error
            if out.tell() <= before:
                raise failure


def _append_from(
    url: str, out: BinaryIO, size: int, advance: Callable[[int], object], token: str | bool | None
) -> None:
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = {**build_hf_headers(token=token, library_name="minisbert"), "Accept-Encoding": "identity"}
    if start := out.tell():
        headers["Range"] = f"bytes={start}-"
    time_outs = (CONNECT_SECONDS, READ_SECONDS, READ_SECONDS, CONNECT_SECONDS)  # connect, read, write, pool
    with get_session().stream("GET", url, headers=headers, timeout=time_outs) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server does not resume: start over
            out.truncate(0)
            out.seek(0)
            advance(-start)
        # Without a chunk size, which would buffer bytes that a dropped connection loses.
        for chunk in response.iter_bytes():
            out.write(chunk)
            advance(len(chunk))
            if out.tell() > size:
                raise DownloadError(f"{url} sends more than the {size} bytes it should have")


def _within(seconds: float, call: Callable[[], _Answer]) -> _Answer:
    """The result of `call` within `seconds`; in a thread, because a stuck DNS lookup has no timeout."""
    outcome: Future[_Answer] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:  # raised in the caller's thread
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError:
        raise DownloadError(f"no answer within {seconds:.0f} s") from None


@contextmanager
def _plain_errors(model: Model) -> Iterator[None]:
    """Turn any error of the hub's libraries into one sentence, and silence their warnings (login hints)."""
    from huggingface_hub import errors

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except DownloadError:
        raise
    except errors.GatedRepoError:
        raise DownloadError(
            f"{model.repository} is gated: ask for access there, then `hf auth login` or token="
        ) from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(f"it has no {model.repository} (a private one needs `hf auth login` or token=)") from None
    except errors.RevisionNotFoundError:
        raise DownloadError(f"{model.repository} has no revision {model.revision}") from None
    except Exception as error:  # the client, its transport and a portal's HTML each raise different types
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise  # locate.py names the folder and its free space
        raise DownloadError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    finally:
        logger.setLevel(level)
