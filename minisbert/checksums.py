"""Checksums of the files that minisbert writes: made when they are written, compared when they are read.

They notice accidents (a flipped bit, a file cut short), not an attacker, who would write new checksums.

    digest(folder / "codes.npy")                # the sha256 of a file
    record = sealed({"rows": 3})                # {"rows": 3, "checksum": "..."}: a JSON object that checks itself
    is_whole(record)                            # True; also for an object without a checksum, from an earlier version
"""

import hashlib
import json
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"  # the key of an object's own checksum


def digest(path: Path) -> str:
    """The sha256 of a file in hexadecimal; the file is streamed. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the checksum of its values, whatever the order of its keys and the spaces in its file.

    Example:
        >>> record = sealed({"rows": 3})
        >>> is_whole(record), is_whole(record | {"rows": 2})
        (True, False)
    """
    values = {key: value for key, value in record.items() if key != CHECKSUM}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return {**values, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}


def is_whole(record: dict[str, Any]) -> bool:
    """Whether the values are those that were sealed; an object without a checksum cannot tell, and passes."""
    return CHECKSUM not in record or bool(record[CHECKSUM] == sealed(record)[CHECKSUM])
