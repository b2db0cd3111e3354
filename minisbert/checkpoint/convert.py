"""From a checkpoint's tensor names to ours and back: one small engine for every family's table of rules.

A rule gives the checkpoint's name, our path and the shape. It transposes where PyTorch stores [out, in] and flax [in, out], and
joins several tensors where we have one. The engine is strict in both directions, and `export(convert(x)) == x` to the bit.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from minisbert.checkpoint.tensors import Columns, as_stored
from minisbert.errors import ModelFolderError

Shape = tuple[int, ...]
Put = Callable[[np.ndarray], Any]  # places a finished parameter

# The letters of a rule's shape -> the setting of a family's Config.
LETTERS = {
    "V": "vocab_size",
    "P": "max_position_embeddings",
    "S": "type_vocab_size",
    "D": "hidden_size",
    "E": "embedding_size",
    "F": "intermediate_size",
    "N": "num_attention_heads",
    "R": "relative_attention_num_buckets",
    **{"A": "query_width", "G": "key_width", "H": "head_dim", "T": "task_type_vocab_size"},
}

# TensorFlow's names for the two parts of a layer norm, still found in the oldest checkpoints; prefixes of remote code.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_OLD_PREFIXES = {"nomic_bert.": "bert.", "gte.": "new."}
# A second name of the same tensor, in a file next to the first or in its place: T5's token table.
TIED = {"encoder.embed_tokens.weight": "shared.weight"}


class Rule(NamedTuple):
    """One line of a family's table: a tensor's name in the checkpoint, our path, our shape.

    Several names are tensors joined along the last axis of ours. The shape is in letters of `LETTERS` ("D,3D") or numbers.
    `first` is the first layer that has the tensor; `when` the setting of the family's Config that says whether any has it.
    """

    hf_name: str | tuple[str, ...]
    path: str
    shape: str | Shape = ()
    transpose: bool = False
    first: int = 0
    when: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.hf_name,) if isinstance(self.hf_name, str) else self.hf_name


def matrix(hf_name: str | Sequence[str], path: str, shape: str | Shape, when: str = "") -> Rule:
    """The rule of a linear layer's matrix, [in, out] here and [out, in] in PyTorch."""
    names = (hf_name,) if isinstance(hf_name, str) else hf_name
    return Rule(tuple(map("{}.weight".format, names)), f"{path}.kernel", shape, transpose=True, when=when)


def linear(
    hf_name: str | Sequence[str], path: str, shape: str | Shape, when: str = "", bias_when: str = ""
) -> list[Rule]:
    """The rules of a linear layer's matrix and of its bias."""
    names = (hf_name,) if isinstance(hf_name, str) else hf_name
    out = shape.rpartition(",")[2] if isinstance(shape, str) else shape[-1:]
    bias = Rule(tuple(map("{}.bias".format, names)), f"{path}.bias", out, when=when or bias_when)
    return [matrix(hf_name, path, shape, when), bias]


def norm(hf_name: str, path: str, shape: str | Shape, when: str = "") -> list[Rule]:
    """The rules of a layer norm's scale and bias."""
    scale = Rule(f"{hf_name}.weight", f"{path}.scale", shape, when=when)
    return [scale, Rule(f"{hf_name}.bias", f"{path}.bias", shape, when=when)]


class Tensors(Protocol):
    """A source of tensors: names with shapes, and one tensor at a time (checkpoint/tensors.py)."""

    where: Any

    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, name: str) -> np.ndarray: ...


@dataclass
class Converted:
    """A checkpoint under our names, with all that is needed to write the original back."""

    params: dict[str, Any]  # our path "blocks.0.attention.qkv.kernel" -> float32 array
    passthrough: dict[str, np.ndarray] = field(default_factory=dict)  # tensors not computed, under their own names
    renamed: dict[str, str] = field(default_factory=dict)  # canonical name -> name in the file, where the two differ
    dtypes: dict[str, str] = field(default_factory=dict)  # canonical name -> dtype in the file, if not float32


def table_for(rules: Sequence[Rule], config: Any = None, **letters: int) -> list[Rule]:
    """A family's rules for one model: those whose `when` its Config has, {i} filled in for every layer, shapes as numbers.

    Args:
        config: the family's Config; None where no rule needs it.
        letters: sizes of letters that are not in `LETTERS`.

    Example:
        >>> table = table_for([Rule("weight", "kernel", "D,3D"), Rule("out.weight", "out.kernel", "D,C")], D=4, C=2)
        >>> {rule.path: rule.shape for rule in table}
        {'kernel': (4, 12), 'out.kernel': (4, 2)}
    """
    table: list[Rule] = []
    for rule in rules:
        if rule.when and not getattr(config, rule.when):
            continue
        shape = rule.shape
        if isinstance(shape, str):
            sizes = [(int(axis[:-1] or 1), axis[-1]) for axis in shape.split(",")]
            shape = tuple([n * (letters.get(x) or getattr(config, LETTERS[x])) for n, x in sizes])
        for i in map(str, range(rule.first, config.num_hidden_layers) if "{i}" in rule.path else (0,)):
            names, path = tuple([name.replace("{i}", i) for name in rule.parts]), rule.path.replace("{i}", i)
            table.append(Rule(names, path, shape, rule.transpose))
    return table


def canonical_names(names: Sequence[str], prefix: str, passthrough: Sequence[str]) -> dict[str, list[str]]:
    """A tensor's canonical name, without prefix, -> its names in the file; more than one is a doubled tensor."""
    canonical: dict[str, list[str]] = {}
    for name in names:
        short = name.removeprefix(prefix).removeprefix(_OLD_PREFIXES.get(prefix, ""))
        for old, new in _OLD_NAMES.items():
            if short.endswith(old) and not _matches(name, passthrough):
                short = short.removesuffix(old) + new
        if short in TIED and not any(other.endswith(TIED[short]) for other in names):
            short = TIED[short]
        canonical.setdefault(short, []).append(name)
    return canonical


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def convert(
    tensors: Tensors,
    table: Sequence[Rule],
    *,
    passthrough: Sequence[str] = (),
    prefix: str = "",
    put: Put | None = np.asarray,
) -> Converted:
    """Read every tensor of a checkpoint into our names.

    Args:
        tensors: the checkpoint, read one tensor at a time (checkpoint/tensors.py).
        table: the family's rules for this model (`table_for`).
        passthrough: patterns of tensor names that are kept for export but not computed.
        prefix: what some checkpoints of the family put before every name.
        put: called with each finished float32 array, so that memory holds the model once; `params` has what it returns. None
            leaves matrices in their file: views, transposed, joined ones as `Columns`; tables are then not searched for NaN.

    Raises:
        ModelFolderError: naming every tensor that is unknown, missing, doubled, mis-shaped, not finite or not of floats.
    """
    found = tensors.shapes()
    canonical = canonical_names(list(found), prefix, passthrough)
    _check_names(tensors.where, table, found, canonical, passthrough)
    renamed = {new: names[0] for new, names in canonical.items() if names[0] != new}
    converted, complaints = Converted({}, renamed=renamed), list[str]()
    read = tensors.read if put else getattr(tensors, "view", tensors.read)
    for rule in table:
        parts = []
        for part in rule.parts:
            array = read(canonical.pop(part)[0])
            if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
                complaints.append(f"{part!r} is {array.dtype.name}, expected floating-point numbers")
                continue
            if array.dtype != np.float32:
                converted.dtypes[part] = array.dtype.name
            with np.errstate(over="ignore"):
                single = array.astype(np.float32, copy=False)
            if (put or not rule.path.endswith(".embedding")) and not _all_finite(array):
                complaints.append(f"{part!r} is not finite (NaN or infinity)")
            elif array.dtype.itemsize > 4 and not np.array_equal(single.astype(array.dtype), array):
                complaints.append(f"{part!r} holds more than float32 can")
            parts.append(single.T if rule.transpose else single)
        if len(parts) == len(rule.parts):
            joined: Any = parts[0] if len(parts) == 1 else Columns(tuple(parts))
            if put or parts[0].ndim < 2:
                joined = np.asarray(joined, order="C")
            converted.params[rule.path] = put(joined) if put else joined
    # Those that no rule has taken.
    converted.passthrough = {short: read(names[0]) for short, names in canonical.items()}
    for copy in TIED.keys() & converted.passthrough.keys():
        first = tensors.read(renamed.get(TIED[copy], TIED[copy]))
        if not np.array_equal(first, converted.passthrough[copy]):
            complaints.append(f"{copy!r} differs from {TIED[copy]!r}, which is the same tensor")
    if complaints:
        raise ModelFolderError(
            f"{tensors.where}: {'; '.join(complaints)}. The weights are damaged; download the model again."
        )
    return converted


def _check_names(
    where: Any,
    table: Sequence[Rule],
    found: Mapping[str, Shape],
    canonical: Mapping[str, list[str]],
    passthrough: Sequence[str],
) -> None:
    """The file has exactly the tensors of the table, in their shapes, and those passed through."""
    complaints, missing, expected = list[str](), list[str](), set[str]()
    for rule in table:
        part_shape = cast(Shape, rule.shape)
        if len(rule.parts) > 1:
            part_shape = (*part_shape[:-1], part_shape[-1] // len(rule.parts))
        part_shape = part_shape[::-1] if rule.transpose else part_shape
        expected.update(rule.parts)
        for part in rule.parts:
            if part not in canonical:
                missing.append(f"{part!r} {list(part_shape)}")
            elif (is_shape := tuple(found[canonical[part][0]])) != part_shape:
                complaints.append(f"wrong shape: {part!r} is {list(is_shape)}, expected {list(part_shape)}")
    if len(missing) > 1000:  # a config.json that claims a thousand layers: all names would fill pages
        layers = len({rule.path.split(".")[1] for rule in table if rule.path.startswith("blocks.")})
        raise ModelFolderError(
            f"{where}: config.json asks for {len(expected)} tensors (num_hidden_layers {layers}), but the file has "
            f"{len(canonical)}. Missing: {', '.join(missing[:3])} ... {missing[-1]}. Fetch the config.json of these weights."
        )
    complaints += map("missing: {}".format, missing)
    for short, names in canonical.items():
        if len(names) > 1:
            complaints.append(f"doubled: {' and '.join(map(repr, names))} both mean {short!r}")
        if short not in expected and not _matches(short, passthrough):
            complaints.append(f"unknown: {names[0]!r} {list(found[names[0]])}")
    if complaints:
        raise ModelFolderError(
            f"{where}: the weights do not fit config.json. {len(complaints)} complaint(s): {'; '.join(complaints)}. "
            "Expected exactly the tensors of this family; check config.json or download the model again."
        )


def _all_finite(array: np.ndarray) -> bool:
    # One sum finds every NaN and infinity without a second array; the closer look tells them from a sum that overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum(dtype=np.float64))) or bool(np.isfinite(array).all())


def export(converted: Converted, table: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The checkpoint in their names again: the inverse of `convert`, to the bit. What training has changed is not rounded.

    Example:
        >>> table = [Rule(("q", "k"), "qk.kernel", transpose=True)]
        >>> converted = Converted({"qk.kernel": np.arange(4, dtype=np.float32).reshape(1, 4)})
        >>> {name: array.tolist() for name, array in export(converted, table).items()}
        {'q': [[0.0], [1.0]], 'k': [[2.0], [3.0]]}
    """
    import ml_dtypes  # noqa: F401 (names bfloat16 to NumPy)

    tensors: dict[str, np.ndarray] = {}
    for rule in table:
        whole = np.asarray(converted.params[rule.path])  # a scalar has no axis to split
        parts = np.split(whole, len(rule.parts), axis=-1) if len(rule.parts) > 1 else [whole]
        for name, part in zip(rule.parts, parts, strict=True):
            array = part.T if rule.transpose else part
            dtype = converted.dtypes.get(name)
            array = np.asarray(array, np.float32) if dtype is None else as_stored(array, dtype)
            tensors[converted.renamed.get(name, name)] = np.asarray(array, order="C")
    for name, array in converted.passthrough.items():
        first = converted.renamed.get(TIED.get(name, ""), TIED.get(name, ""))
        tensors[converted.renamed.get(name, name)] = tensors.get(first, array)
    return tensors


def nest(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Flat paths to a nested dict; a number in a path is a list index, as flax keeps it.

    Example:
        >>> nest({"blocks.0.bias": 1, "norm.scale": 2})
        {'blocks': {0: {'bias': 1}}, 'norm': {'scale': 2}}
    """
    tree: dict[Any, Any] = {}
    for path, value in flat.items():
        node, (*parents, leaf) = tree, path.split(".")
        for parent in parents:
            node = node.setdefault(int(parent) if parent.isdigit() else parent, {})
        node[leaf] = value
    return tree


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict to flat paths: the inverse of `nest`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat
