"""Flags that several commands share: their types, names and help texts."""

from typing import Annotated, Literal

from tyro.conf import arg

from minisbert.errors import InputError

Model = Annotated[str, arg(metavar="MODEL", help="a folder, a known name, or a name on the hub.")]
OptionalModel = Annotated[str | None, arg(metavar="MODEL")]
ComputeDtype = Annotated[
    Literal["float32", "bfloat16"],
    arg(help="dtype of the matrix products; bfloat16 is less precise, and faster if the hardware supports it."),
]
Engine = Annotated[
    Literal["auto", "jax", "numpy"],
    arg(
        help="auto takes numpy for texts of up to 10,000 characters together, which it embeds before jax has started, and jax "
        "for more, or for an option that only jax has."
    ),
]
Offline = Annotated[bool, arg(help="never open a socket.")]
Column = Annotated[str, arg(metavar="NAME", help="the key or column of jsonl, tsv or parquet with the text.")]

# A file, a folder, a name, a whole number or a score, most of them also without a default.
File = Annotated[str, arg(metavar="FILE")]
OptionalFile = Annotated[str | None, arg(metavar="FILE")]
Folder = Annotated[str, arg(metavar="FOLDER")]
OptionalFolder = Annotated[str | None, arg(metavar="FOLDER")]
Png = Annotated[str | None, arg(metavar="PNG")]
Name = Annotated[str, arg(metavar="NAME")]
OptionalName = Annotated[str | None, arg(metavar="NAME")]
N = Annotated[int, arg(metavar="N")]
OptionalN = Annotated[int | None, arg(metavar="N")]
Score = Annotated[float | None, arg(metavar="SCORE")]


def at_least_one(flag: str, value: int) -> None:
    """Check a number that a flag gives."""
    if value < 1:
        raise InputError(f"{flag} is {value}. Expected at least 1.")
