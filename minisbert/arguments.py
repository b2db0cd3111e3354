"""Argument checks for public functions. They run once, at the API boundary; internal code trusts its arguments.

Each check raises InputError with the argument's name, its value, and what was expected; some return the value converted.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.errors import InputError, short_repr

logger = logging.getLogger("minisbert")
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
OUTPUT_VALUES = ("sentence_embedding", "token_embeddings", "hidden_states", None)


def check_encode_options(
    output_value: Any,
    precision: Any,
    on_truncate: Any,
    batch_size: Any,
    truncate_dim: Any,
    normalize_embeddings: Any,
    show_progress_bar: Any,
) -> None:
    """Check the options of `SentenceEncoder.encode`, alone and in combination."""
    check_choice("output_value", output_value, OUTPUT_VALUES)
    check_choice("precision", precision, PRECISIONS)
    if precision != "float32" and output_value != "sentence_embedding":
        raise InputError(
            f"precision is {precision!r} with output_value {output_value!r}. Expected 'float32'; only sentence "
            "embeddings can be quantized."
        )
    if truncate_dim is not None:
        check_positive("truncate_dim", truncate_dim)
    check_bool("normalize_embeddings", normalize_embeddings)
    check_batch_options(on_truncate, batch_size, show_progress_bar)


def check_batch_options(on_truncate: Any, batch_size: Any, show_progress_bar: Any) -> None:
    """The options that `SentenceEncoder.encode` and `CrossEncoder.predict` share."""
    check_choice("on_truncate", on_truncate, ("warn", "error", "ignore"))
    if batch_size is not None:
        check_positive("batch_size", batch_size)
    if show_progress_bar is not None:
        check_bool("show_progress_bar", show_progress_bar)


def kept_dimension(truncate_dim: int | None, width: int) -> int:
    """The width of the embeddings that `encode` returns; warns where `truncate_dim` cuts nothing."""
    if truncate_dim is not None and truncate_dim > width:
        logger.warning(
            f"truncate_dim is {truncate_dim}, and the embeddings have {width} dimensions: nothing is cut off."
        )
    return min(truncate_dim or width, width)


def check_out(out: Any, shape: tuple[int, int], dtype: Any, output_value: Any, precision: Any) -> None:
    """A writeable array of the shape and dtype of the embeddings of `SentenceEncoder.encode`."""
    if not isinstance(out, np.ndarray) or (out.dtype, out.shape) != (np.dtype(dtype), shape):
        found = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else f"a {type(out).__name__}"
        raise InputError(
            f"out is {found}. Expected a NumPy array, {np.dtype(dtype)} {list(shape)}, for these sentences."
        )
    if not out.flags.writeable:
        raise InputError("out cannot be written. Expected a writeable array; open a memory-mapped file with mode 'r+'.")
    if output_value != "sentence_embedding" or precision != "float32":
        raise InputError(
            f"out takes sentence embeddings, not {output_value!r} in {precision!r}. Leave one of them out."
        )


def check_path(path: Any, name: str = "path", expected: str = "the folder to write") -> Path:
    """The folder as a Path; `expected` completes the error's "Expected ..."."""
    if not isinstance(path, str | Path) or not str(path).strip() or "\0" in str(path):
        raise InputError(f"{name} is {short_repr(path)}. Expected {expected}, as str or Path.")
    return Path(path)


def check_prompts(prompts: Any) -> None:
    """A dict of prompt name to text."""
    if not isinstance(prompts, dict):
        raise InputError(f"prompts is {short_repr(prompts)}. Expected a dict of prompt name to text.")
    for name, text in prompts.items():
        check_text("a name in prompts", name)
        check_text(f"prompts[{name!r}]", text)


def prompt_text(prompt: str | None, prompt_name: Any, prompts: dict[str, str], default_name: Any) -> str:
    """The prompt to put before each sentence: the one given, the one named, the default, or none."""
    if prompt is not None:
        check_text("prompt", prompt)
        return prompt
    name = prompt_name if prompt_name is not None else default_name
    if name is None:
        return ""
    check_prompts(prompts)
    if not isinstance(name, str) or name not in prompts:
        argument = "default_prompt_name" if prompt_name is None else "prompt_name"
        raise InputError(
            f"{argument} is {short_repr(name)}. Expected one of {sorted(prompts)!r:.1000}, the prompts of this model."
        )
    return prompts[name]


def to_list(items: Any) -> Any:
    """A column of pandas or polars, a generator, dict.values() and the like as a list.

    Arrays are as they are, and so is what has no order or other items than it seems: a text, a set, a dict, a table.
    """
    if type(items).__module__.startswith(("pandas", "polars")) and len(getattr(items, "shape", ())) == 1:
        return items.tolist() if hasattr(items, "tolist") else items.to_list()
    if isinstance(items, str | bytes | Mapping | set | frozenset) or hasattr(items, "__array__"):
        return items
    return list(items) if isinstance(items, Iterable) else items


def as_list(sentences: Any, name: str = "sentences") -> tuple[list[str], bool]:
    """The sentences as a list, and whether a single string was given."""
    single = isinstance(sentences, str)
    if isinstance(sentences, np.ndarray) and sentences.ndim == 1:
        sentences = sentences.tolist()
    elif not isinstance(sentences, list):
        sentences = [sentences] if single else to_list(sentences)
    if not isinstance(sentences, list):
        raise InputError(
            f"{name} is {short_repr(sentences)} ({type(sentences).__name__}). Expected a string or a list of strings."
        )
    for row, sentence in enumerate(sentences):
        check_text(f"{name}[{row}]", sentence)
    return list(sentences), single


def check_list(name: str, texts: Any) -> list[str]:
    """A list of texts. A single string is rejected: it would be iterated letter by letter."""
    found, single = as_list(texts, name)
    if single:
        raise InputError(f"{name} is the text {short_repr(texts)}. Expected a list of texts; put it in a list.")
    return found


def check_stream(name: str, texts: Any) -> Iterator[str]:
    """An iterator over texts, which are not checked yet. A single string is rejected: it would be iterated letter by letter."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(
            f"{name} is {short_repr(texts)} ({type(texts).__name__}). Expected an iterable of strings, such as a list or an "
            "open file."
        )
    return iter(texts)


def as_pairs(pairs: Any) -> tuple[list[tuple[str, str]], bool]:
    """The pairs as a list of (text, text), which may be empty, and whether a single pair was given."""
    expected = "Expected a pair of texts, (query, document), or a list of such pairs"
    items = pairs.tolist() if isinstance(pairs, np.ndarray) else to_list(pairs)
    if not isinstance(items, list):
        raise InputError(f"pairs is {short_repr(pairs)} ({type(pairs).__name__}). {expected}.")
    items = [pair.tolist() if isinstance(pair, np.ndarray) else pair for pair in items]
    single = bool(items) and not any(isinstance(pair, list | tuple) for pair in items)
    rows = [pairs if isinstance(pairs, tuple) else items] if single else items
    for row, pair in enumerate(rows):
        name = "pairs" if single else f"pairs[{row}]"
        if not isinstance(pair, list | tuple):
            raise InputError(f"{name} is {short_repr(pair)} ({type(pair).__name__}). {expected}.")
        if len(pair) != 2:
            raise InputError(f"{name} is {short_repr(pair)}, of length {len(pair)}. {expected}.")
        for side, text in enumerate(pair):
            check_text(f"{name}[{side}]", text)
    return [(pair[0], pair[1]) for pair in rows], single


def check_text(name: str, text: Any) -> None:
    """One text that can be encoded."""
    if not isinstance(text, str):
        raise InputError(
            f"{name} is {short_repr(text)} ({type(text).__name__}). Expected text (str); convert it, or leave it out."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} contains the lone surrogate {text[error.start]!r} at character {error.start}. "
            "Expected valid Unicode; read the text with errors='replace' or remove the character."
        ) from None


def check_positive(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """A whole number of at least 1, or within other bounds."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise InputError(f"{name} is {short_repr(value)}. Expected a whole number {bounds}.")
    return int(value)


def count_from_zero(name: str, value: Any) -> int:
    """A whole number of at least 0."""
    return check_positive(name, value, 0)


def check_finite(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InputError(f"{name} is {short_repr(value)}. Expected a finite number.")
    return float(value)


def seed_number(name: str, value: Any) -> int:
    """A seed: a whole number from 0 to 2^32 - 1."""
    return check_positive(name, value, 0, 2**32 - 1)


def check_bool(name: str, value: Any) -> None:
    """True or False; a text like "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {short_repr(value)}. Expected True or False.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """One of the allowed values."""
    if not isinstance(value, str | None) or value not in choices:
        raise InputError(f"{name} is {short_repr(value)}. Expected one of {', '.join(map(repr, choices))}.")


def no_rows(value: Any) -> bool:
    """Whether a value is an empty list, which holds no embeddings and has no width, unlike an array of shape [0, D]."""
    if isinstance(value, np.ndarray):
        return value.shape == (0,)
    return isinstance(value, list | tuple) and not value


def embedding_rows(name: str, value: Any) -> np.ndarray:
    """Embeddings as finite float32 rows; one vector becomes one row."""
    if no_rows(value):
        raise InputError(f"{name} is empty. Expected at least one embedding.")
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise TypeError  # strings, complex numbers, objects
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are reported below
            array = array.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {short_repr(value)}. Expected embeddings, an array of numbers.") from None
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} has shape {array.shape}. Expected one embedding or rows of embeddings.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(f"{name}[{row}] contains NaN or infinity. Expected finite embeddings; encode the text again.")
    return array


def comparable(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of embeddings of equal width."""
    a_BD, b_MD = embedding_rows("a", a), embedding_rows("b", b)
    if a_BD.shape[1] != b_MD.shape[1]:
        raise InputError(
            f"a has width {a_BD.shape[1]}, b {b_MD.shape[1]}. Expected embeddings of one model (and truncate_dim)."
        )
    for name, rows in (("a", a_BD), ("b", b_MD)):
        refuse_too_long(name, rows)
    return a_BD, b_MD


def comparable_rows(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of embeddings of equal width and number."""
    a_BD, b_BD = comparable(a, b)
    if len(a_BD) != len(b_BD):
        raise InputError(f"a has {len(a_BD)} embeddings, b {len(b_BD)}. Expected the same number of each.")
    return a_BD, b_BD


def refuse_too_long(name: str, rows_MD: np.ndarray) -> None:
    """Reject rows whose squared length overflows float32: they have no cosine, and products with them may overflow."""
    with np.errstate(over="ignore"):
        long = ~np.isfinite(np.einsum("md,md->m", rows_MD, rows_MD))
    if long.any():
        row = int(np.argmax(long))
        raise InputError(
            f"{name}[{row}] is too long for float32. Expected embeddings of ordinary size; scale them down."
        )
