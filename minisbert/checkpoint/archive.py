"""Opens zip files that hold tensors (`torch.save`, `np.savez`), whose entries are stored: no more is read than the file has.

A directory can list the same bytes a thousand times, an entry can unpack to far more than the file, and Python's zipfile reads
a directory of any size: refused before an entry is read.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minisbert import limits


class _Directory(io.FileIO):
    """A file of which no piece larger than a directory may be read, as long as `most` is set."""

    most: int | None = limits.HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise ValueError(f"a directory of {size} bytes, more than {self.most}")
        return super().read(size) or b""


@contextmanager
def stored_archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file of stored entries, with distinct names, of the file's size at most; ValueError and others if it is not."""
    with _Directory(file) as raw, zipfile.ZipFile(raw) as archive:
        raw.most = None
        entries = archive.infolist()
        packed = next((one.filename for one in entries if one.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"{packed:.200} is compressed")
        if len({one.filename for one in entries}) < len(entries):
            raise ValueError("a name is there twice")
        total, size = sum(one.file_size for one in entries), file.stat().st_size
        if total > size:
            raise ValueError(f"its entries have {total} bytes, the file {size}")
        yield archive
