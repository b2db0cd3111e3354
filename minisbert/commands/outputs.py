"""Output files of commands: the path is checked before the work, and the file is written atomically after it.

Embeddings go into .npy (one row per sentence), .jsonl (one {"text": ..., "embedding": [...]} per line), .parquet (the same two
columns, fixed-size lists), or "-", which is jsonl on stdout.
"""

import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisbert.atomic_write import whole_file
from minisbert.data.columnar import parquet_library
from minisbert.errors import DataError, InputError

STANDARD = "-"  # stdin or stdout

if TYPE_CHECKING:
    import numpy as np

    Part = tuple[list[str], np.ndarray]  # consecutive sentences and their embeddings


def check_output(out: str | None, kinds: Collection[str], *, source: str = "") -> None:
    """Reject a path that cannot be written, before any work is done.

    Args:
        out: the requested path; None is allowed, and means no file.
        kinds: the extensions that can be written; "-" among them allows stdout.
        source: the input, which the output must not replace.
    """
    if out is None or (out == STANDARD and STANDARD in kinds):
        return
    path = Path(out)
    if path.suffix.lower() not in kinds:
        expected = ", ".join("- (stdout)" if kind == STANDARD else kind for kind in kinds)
        raise InputError(f"{out}: this kind of output file is not supported. Expected a name that ends in {expected}.")
    if path.suffix.lower() == ".parquet":
        parquet_library()
    if path.is_dir():
        raise InputError(f"{out}: is a folder. Expected the name of a file.")
    if source and path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"{out}: is the input file. Expected another name.")
    if not path.parent.is_dir():
        raise DataError(f"{out}: there is no folder {path.parent}. Create it first, or choose another name.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{out}: the folder {path.parent} is not writable. Choose another name.")


def write_lines(out: str, lines: Iterable[str]) -> None:
    """Write lines of UTF-8 text. Raises WriteError if the file cannot be written."""
    with whole_file(Path(out)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def json_line(record: Any) -> str:
    """A value as one line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_json(out: str | None, record: Any) -> None:
    """Write a value as JSON, where a file is asked for. Raises WriteError, as `write_lines`."""
    if out is not None:
        write_lines(out, [json.dumps(record, indent=2), "\n"])


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib Figure of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def save_figure(figure: Any, out: str, **options: Any) -> None:
    """Write a matplotlib Figure as PNG, without pyplot and its window system. Raises WriteError, as `write_lines`."""
    with whole_file(Path(out)) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        figure.savefig(temporary, format="png", dpi=150, **options)


def save_heatmap(
    out: str, scores: "np.ndarray", sentences: Sequence[str], *, title: str, quantity: str = "similarity"
) -> None:
    """Draw the scores `[sentences, sentences]` of all pairs, with their values in the cells, into a PNG file."""
    count = len(sentences)
    lowest, highest = min(0.0, float(scores.min())), float(scores.max())
    side = max(3.6, 0.8 * count)
    figure, axes = new_figure(side + 5.2, side + 1.2)
    # cividis looks the same with and without colour blindness, and its brightness alone shows the value.
    image = axes.imshow(scores, cmap="cividis", vmin=lowest, vmax=highest)
    figure.colorbar(image, ax=axes, shrink=0.9).set_label(quantity)
    for row in range(count):
        for column in range(count):
            bright = scores[row, column] > (lowest + highest) / 2
            value = f"{scores[row, column]:.2f}"
            axes.text(column, row, value, ha="center", va="center", color="black" if bright else "white")
    labels = [textwrap.fill(f"{i}: {text}", 36, max_lines=4, placeholder=" …") for i, text in enumerate(sentences)]
    axes.set_yticks(range(count), labels, parse_math=False)  # a sentence with two dollar signs is not a formula
    axes.set_xticks(range(count), [str(i) for i in range(count)])
    axes.set_xlabel("sentence")
    axes.set_ylabel("sentence")
    axes.set_title(textwrap.shorten(title, 70), parse_math=False)
    save_figure(figure, out, bbox_inches="tight", pad_inches=0.15)


def write_embeddings(out: str, parts: Iterable["Part"], rows: int) -> None:
    """Write embeddings part by part, with one part in memory at a time.

    Args:
        out: a path that `check_output` has passed, or "-" for jsonl on stdout.
        parts: sentences and their embeddings, in order; at least one part, which may have no rows.
        rows: the total number of embeddings.
    """
    if out == STANDARD:
        _write_jsonl(sys.stdout.buffer, parts, rows)
        sys.stdout.buffer.flush()
        return
    with whole_file(Path(out)) as temporary, temporary.open("wb") as file:
        WRITERS[Path(out).suffix.lower()](file, parts, rows)


def _write_npy(file: Any, parts: Iterable["Part"], rows: int) -> None:
    import numpy as np

    for _, embeddings in parts:
        if file.tell() == 0:
            descr = np.lib.format.dtype_to_descr(embeddings.dtype)
            header = {"descr": descr, "fortran_order": False, "shape": (rows, embeddings.shape[1])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(embeddings.tobytes())


def _write_jsonl(file: Any, parts: Iterable["Part"], rows: int) -> None:
    for texts, embeddings in parts:
        for text, embedding in zip(texts, embeddings, strict=True):
            # NumPy's shortest digits that round-trip to the same float32, half as many as for Python floats.
            numbers = ", ".join(embedding.astype(str))
            file.write(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "embedding": [{numbers}]}}\n'.encode())


def _write_parquet(file: Any, parts: Iterable["Part"], rows: int) -> None:
    import pyarrow

    parquet = parquet_library()
    writer = None
    try:
        for texts, embeddings in parts:
            values = pyarrow.array(embeddings.ravel())
            lists = pyarrow.FixedSizeListArray.from_arrays(values, embeddings.shape[1])
            table = pyarrow.table({"text": pyarrow.array(texts, pyarrow.string()), "embedding": lists})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


WRITERS: dict[str, Callable[[Any, Iterable["Part"], int], None]] = {
    ".npy": _write_npy,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
