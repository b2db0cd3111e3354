"""Reads JSON and vocabulary files without trusting them: bounded sizes, bounded memory, no key twice.

Python's json takes the last of two equal keys, where another reader may take the first, and 37 times the memory of a file
that holds empty lists.
"""

import json
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.errors import ModelFolderError, folder_error

# The most bytes of a file, by its name; of any other, `limits.CONFIG_BYTES`.
_MOST_BYTES = {
    **dict.fromkeys(("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"), limits.VOCABULARY_BYTES),
    "sentencepiece.bpe.model": limits.SENTENCEPIECE_BYTES,
    **dict.fromkeys(("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"), limits.TOKENS_BYTES),
    "model.safetensors.index.json": limits.HEADER_BYTES,
}
# How the small file begins that Git has in the place of a large one, which Git LFS fetches.
_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raises ModelFolderError for a file that starts as a pointer of Git LFS does; 8 bytes of it are enough."""
    if len(start) >= 8 and _POINTER.startswith(start[: len(_POINTER)]):
        raise ModelFolderError(
            f"{path}: a pointer of Git LFS, not the file itself: the folder was cloned without Git LFS. Expected the "
            "file; run `git lfs pull` in that folder, or download the model another way."
        )


def most_bytes(path: Path) -> int:
    """The most bytes of a file that are read, by its name."""
    return _MOST_BYTES.get(path.name, limits.CONFIG_BYTES)


def read_bytes(path: Path) -> bytes:
    """The content of a settings or vocabulary file, no larger than its kind may be (`limits`)."""
    most = most_bytes(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelFolderError(f"{path}: expected a file, found something else. Check the model folder.")
        if size > most:
            raise folder_error(path, f"{size} bytes", f"at most {most} for this file")
        content = path.read_bytes()
    except FileNotFoundError:
        # The hub's cache keeps a model one level down: models--org--name/snapshots/<commit>.
        inside = min(path.parent.glob(f"snapshots/*/{path.name}"), default=None)
        remedy = "check the path or download the model again" if inside is None else f"load {inside.parent}"
        raise ModelFolderError(
            f"{path}: no such file. Expected a sentence-transformers or Hugging Face model folder; {remedy}."
        ) from None
    except OSError as error:
        raise ModelFolderError(f"{path}: not readable ({error}). Check the model folder.") from None
    refuse_pointer(path, content)
    return content


def parse_json(content: bytes, where: Path | str) -> Any:
    """JSON text as Python values: no key twice in one object, no more values than its size allows."""
    try:
        return loads(content)
    except (ValueError, RecursionError) as error:
        raise folder_error(where, f"not readable as JSON ({error})", "UTF-8 JSON") from None


def loads(content: bytes) -> Any:
    """`parse_json` for callers with words of their own; raises ValueError or RecursionError."""
    # What CPython needs: a list or dict 80 bytes, a string 60, the place of a value and a number 32.
    strings = content.count(b'"') // 2
    memory = 80 * (content.count(b"[") + content.count(b"{")) + 60 * strings + 32 * content.count(b",")
    if strings > 2 * limits.PIECES or memory > limits.PARSED_BYTES + 4 * len(content):
        raise ValueError(
            f"its {len(content)} bytes hold {strings} strings, and would take {memory // 1_000_000} MB as values"
        )
    return json.loads(content.decode("utf-8"), object_pairs_hook=each_key_once)


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` of json; raises ValueError where a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {name!r:.100} is there twice")
    return found


def read_json(path: Path) -> Any:
    """The content of a JSON file; see `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path), path)


def is_text(value: Any) -> bool:
    """Whether a value is valid Unicode: JSON can spell lone surrogates, which cannot be written or tokenized."""
    try:
        return isinstance(value, str) and value.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False
