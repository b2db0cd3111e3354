"""Reads an exported folder strictly: a damaged or invented one raises a ModelFolderError that names the file.

Settings, weights, tokenizer and programs are checked against their digests, each other, and limits. Each file is read once.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from minisbert import limits
from minisbert.checkpoint.archive import stored_archive
from minisbert.checkpoint.json_file import loads, parse_json, read_bytes
from minisbert.checksums import CHECKSUM, digest, is_whole
from minisbert.errors import ModelFolderError
from minisbert.text.tokenizer_limits import check_limits

SETTINGS, WEIGHTS, TOKENIZER = "minisbert_export.json", "weights.npz", "tokenizer.json"
TABLE = "encoder.token_embedding.embedding"  # one row per token id
POSITIONS = "encoder.position_embedding.embedding"  # one row per position, in families that learn them


def _whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**31


def _list_of(valid: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(valid, value))


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


# Every key of the settings -> whether a value is valid.
KEYS: dict[str, Callable[[Any], bool]] = {
    "programs": lambda value: isinstance(value, dict),  # file -> its padded length, or null if it takes any
    "sha256": _texts,  # every file -> its digest
    "platforms": _list_of(lambda value: isinstance(value, str), least=1),
    # Rising; the last is max_seq_length.
    "lengths": _list_of(lambda value: _whole(value, 1) and value <= limits.TOKENS, least=1),
    "prefix": _list_of(_whole),  # token ids before and after each text
    "suffix": _list_of(_whole),
    "padding_id": _whole,
    "dimension": lambda value: _whole(value, 1),
    "prompts": _texts,
    "default_prompt_name": lambda value: isinstance(value, str | None),
    "truncate_dim": lambda value: value is None or _whole(value, 1),
    "similarity_fn_name": lambda value: value in ("cosine", "dot", "euclidean", "manhattan"),
    "made_with": lambda value: isinstance(value, dict),
}
# The only calls that a program may make besides StableHLO's own operations: JAX's checks of sizes. Any other could call into
# the process that runs it.
_HARMLESS_CALL = re.compile(r"shape_assertion|stablehlo\.[\w.]+")
_CALL = re.compile(r"custom_call\s+@(?:\"([^\"]*)\"|([\w.$-]+))|call_target_name\s*=\s*\"([^\"]*)\"")


def _damaged(place: Any, problem: str) -> ModelFolderError:
    return ModelFolderError(f"{place}: {problem}. Export the model again.")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings, after every file that they list was compared with its digest."""
    file = folder / SETTINGS
    try:
        if file.stat().st_size > limits.CONFIG_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes")
        settings: dict[str, Any] = loads(file.read_bytes())
        whole = is_whole(settings)
        settings.pop(CHECKSUM, None)  # earlier versions wrote none
        wrong = [key for key, valid in KEYS.items() if key not in settings or not valid(settings[key])]
        wrong += settings.keys() - KEYS.keys()
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:  # the last two: not an object
        raise ModelFolderError(
            f"{file}: not readable ({error!s:.300}). Expected a folder that `minisbert export` wrote."
        ) from None
    if not wrong:
        lengths, programs = settings["lengths"], settings["programs"]
        name = settings["default_prompt_name"]
        checks = {
            "lengths": lengths == sorted(set(lengths)),
            "programs": list(programs.values()) in ([None], lengths),
            "sha256": settings["sha256"].keys() == {WEIGHTS, TOKENIZER, *programs},
            "prefix": len(settings["prefix"] + settings["suffix"]) < lengths[-1],
            "default_prompt_name": name is None or name in settings["prompts"],
            CHECKSUM: whole,
        }
        wrong = [key for key, good in checks.items() if not good]
    if wrong:
        raise _damaged(file, f"{', '.join(sorted(wrong))} not as `minisbert export` writes it")
    for name, expected in settings["sha256"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ModelFolderError(f"{path}: no such file. Expected all exported files; copy the folder again.")
        if (found := digest(path)) != expected:
            raise ModelFolderError(f"{path}: sha256 is {found}, expected {expected}. Copy the folder again.")
    return settings


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """Finite float32 arrays. No more is allocated than the file has: its members are stored, not compressed."""
    weights = {}
    try:
        with stored_archive(file) as archive:
            for info in archive.infolist():
                with archive.open(info) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                    shape, fortran, dtype = read[version](stream)
                    content = stream.read()  # the whole of it: zipfile then compares its CRC
                if dtype != np.float32 or fortran:
                    raise ValueError(f"{info.filename} is {dtype}{' in Fortran order' if fortran else ''}, not float32")
                if any(size < 0 for size in shape):
                    raise ValueError(f"{info.filename} has the shape {shape}")
                array = np.frombuffer(content, dtype).reshape(shape)
                if not np.isfinite(array).all():
                    raise ValueError(f"{info.filename} has NaN or infinity")
                weights[info.filename.removesuffix(".npy")] = array
    except Exception as error:  # zipfile and NumPy's header reader raise many types
        raise _damaged(file, f"cannot be read ({error!s:.300})") from None
    return weights


def read_tokenizer(folder: Path, settings: dict[str, Any], weights: dict[str, np.ndarray]) -> Any:
    """The tokenizer, whose ids all have a row of the embedding table."""
    from tokenizers import Tokenizer

    file, table = folder / TOKENIZER, weights.get(TABLE)
    content = read_bytes(file)
    values = parse_json(content, file)
    check_limits(values if isinstance(values, dict) else {}, file)
    try:
        backend = Tokenizer.from_str(content.decode("utf-8"))
        backend.encode("a", add_special_tokens=False)
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
    except BaseException as error:
        if not of_library(error):
            raise
        raise _damaged(file, f"not a tokenizer that the tokenizers library reads ({error!s:.300})") from None
    if table is None or table.ndim != 2:
        raise _damaged(folder / WEIGHTS, f"has no table {TABLE!r}")
    largest_ids = {key: max(settings[key], default=0) for key in ("prefix", "suffix")}
    for what, number in {"a token": largest, **largest_ids, "padding_id": settings["padding_id"]}.items():
        if number >= len(table):
            place = file if what == "a token" else folder / SETTINGS
            raise _damaged(place, f"{what} has the id {number}, and the embedding table {len(table)} rows")
    return backend


def of_library(error: BaseException) -> bool:
    """Whether an error is the tokenizers library's, whose panics do not derive from Exception, and not an interrupt."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def read_programs(folder: Path, settings: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[int | None, Any]:
    """Padded length (None: any) -> a program that takes these weights, gives embeddings, and calls StableHLO alone."""
    longest, table = settings["lengths"][-1], weights.get(POSITIONS)
    if table is not None and longest > len(table):
        raise _damaged(folder / SETTINGS, f"lengths up to {longest}, and the model has {len(table)} positions")
    programs = {}
    for name, length in settings["programs"].items():
        program = programs[length] = _program(folder / name, weights)
        texts = (jax.ShapeDtypeStruct(shape, np.int32) for shape in ((1, length or longest), (1,), ()))
        try:
            found: Any = jax.eval_shape(program.call, weights, *texts)
            shape = (found.shape, str(found.dtype))
        except Exception as error:  # other arguments
            problem = f"does not take texts of {length or longest} tokens ({error!s:.300})"
            raise _damaged(folder / name, problem) from None
        if shape != ((1, settings["dimension"]), "float32"):
            raise _damaged(
                folder / name,
                f"gives {shape[1]} {list(shape[0])} for one text. Expected float32 [1, {settings['dimension']}], the "
                f"dimension of {SETTINGS}",
            )
    return programs


def _program(file: Path, weights: dict[str, np.ndarray]) -> jax.export.Exported:
    try:
        program = jax.export.deserialize(bytearray(file.read_bytes()))
        arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        expected = {name: (aval.shape, str(aval.dtype)) for name, aval in arguments[0].items()}
        text = program.mlir_module()
    except Exception as error:  # of flatbuffers, MLIR and JAX, of many types
        raise _damaged(file, f"not a program that this release of JAX reads ({error!s:.300})") from None
    calls = {"".join(names) for names in _CALL.findall(text)}
    foreign = sorted(call for call in calls if not _HARMLESS_CALL.fullmatch(call))
    if foreign:
        raise ModelFolderError(
            f"{file}: calls {', '.join(foreign)}. Expected StableHLO alone; do not run this program."
        )
    found = {name: (array.shape, str(array.dtype)) for name, array in weights.items()}
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        raise _damaged(file, f"{WEIGHTS} does not fit it in {', '.join(different)[:300]}")
    return program
