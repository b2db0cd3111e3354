"""From a checkpoint's names to ours and back: one small engine over a family's table of rules.

A rule says `theirs -> ours`, with {i} for the layer, a transpose where PyTorch keeps [out, in] and flax [in, out],
and several names on the left where we keep one joined matrix. The engine is strict in both directions: every tensor
that is unknown, missing, given twice, or of the wrong shape is named in one error, and `export(convert(x)) == x`
to the bit, names and dtypes included. Plain NumPy; no device.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from minisbert import limits
from minisbert.errors import ModelFolderError

Shape = tuple[int, ...]


class Rule(NamedTuple):
    """One line of a family's table: their name (or names, joined along the last axis of ours) and our path.

    `first` is the first layer that has it, where the layers before have not.
    """

    hf_name: str | tuple[str, ...]
    path: str
    transpose: bool = False
    first: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.hf_name,) if isinstance(self.hf_name, str) else self.hf_name

    def at(self, layer: int) -> "Rule":
        """The rule for one layer, {i} filled in."""
        parts = tuple(part.replace("{i}", str(layer)) for part in self.parts)
        return Rule(parts, self.path.replace("{i}", str(layer)), self.transpose)


class Tensors(Protocol):
    """What is read from: names with shapes, and one tensor at a time (see checkpoint/tensors.py)."""

    where: Any

    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, name: str) -> np.ndarray: ...


@dataclass
class Converted:
    """A checkpoint in our names, with all that is needed to write the original back."""

    params: dict[str, Any]  # our flat path "blocks.0.attention.qkv.kernel" -> float32 array
    passthrough: dict[str, np.ndarray] = field(default_factory=dict)  # tensors kept but not computed, under their names
    # Their canonical name -> the name that stands in the file, where the two differ (a prefix, old layer norm names).
    renamed: dict[str, str] = field(default_factory=dict)
    # Their canonical name -> dtype in the file, where it is not float32.
    dtypes: dict[str, str] = field(default_factory=dict)


# TensorFlow's names for the two parts of a layer norm, still found in the oldest checkpoints.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def canonical_names(names: Sequence[str], prefix: str, passthrough: Sequence[str]) -> dict[str, list[str]]:
    """Their canonical name -> the names in the file that mean it (more than one is a doubled tensor)."""
    has_prefix = bool(prefix) and any(name.startswith(prefix) for name in names)
    canonical: dict[str, list[str]] = {}
    for name in names:
        short = name.removeprefix(prefix) if has_prefix and name.startswith(prefix) else name
        for old, new in _OLD_NAMES.items():
            if short.endswith(old) and not _matches(name, passthrough):
                short = short.removesuffix(old) + new
        canonical.setdefault(short, []).append(name)
    return canonical


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def filled(rules: Sequence[Rule], layers: int) -> list[Rule]:
    """The table with {i} spelled out for every layer."""
    spelled: list[Rule] = []
    for rule in rules:
        spelled += [rule.at(i) for i in range(rule.first, layers)] if "{i}" in rule.path else [rule.at(0)]
    return spelled


def refuse_too_few(
    tensors: Tensors, rules: Sequence[Rule], *, layers: int, passthrough: Sequence[str] = (), prefix: str = ""
) -> None:
    """The file has at least half as many tensors as its config.json asks for.

    Asked before the model is defined, which takes time for every layer: a small file with a config.json that claims a
    thousand layers is refused at once. What else is missing `convert` names.

    Args: see `convert`.

    Raises:
        ModelFolderError: naming the first and the last that are missing.
    """
    found = canonical_names(list(tensors.shapes()), prefix, passthrough)
    wanted = [part for rule in filled(rules, layers) for part in rule.parts]
    if len(wanted) > 2 * len(found):
        absent = [name for name in wanted if name not in found]
        raise ModelFolderError(
            f"{tensors.where}: the weights do not fit config.json. With num_hidden_layers {layers} they are "
            f"{len(wanted)} tensors, the file has {len(found)}; missing: "
            f"{', '.join(map(repr, absent[:3]))} ... {absent[-1]!r}. Check config.json or fetch the model again."
        )


def convert(
    tensors: Tensors,
    rules: Sequence[Rule],
    shapes: Mapping[str, Shape],
    *,
    layers: int,
    passthrough: Sequence[str] = (),
    prefix: str = "",
    put: Callable[[str, np.ndarray], Any] = lambda path, array: array,
) -> Converted:
    """Read every tensor of a checkpoint into our names.

    Args:
        tensors: the checkpoint; read one tensor at a time.
        rules: the family's table.
        shapes: our flat path -> shape, from the model's own definition.
        layers: how often rules with {i} apply.
        carried: patterns of their names that are kept but not computed.
        prefix: a prefix some checkpoints of the family put before every name.
        put: called with our path and each finished float32 array; what it returns is kept. Placing arrays on a device
            one by one keeps only one copy of the model in memory.

    Raises:
        ModelFolderError: naming every tensor that is unknown, missing, doubled, mis-shaped, not of a float dtype, or
            not finite.
    """
    if layers > limits.LAYERS:
        raise ModelFolderError(f"{tensors.where}: {layers} layers, more than the {limits.LAYERS} any model has.")
    found = tensors.shapes()
    canonical = canonical_names(list(found), prefix, passthrough)
    complaints: list[str] = []
    for short, names in canonical.items():
        if len(names) > 1:
            complaints.append(f"doubled: {' and '.join(repr(name) for name in names)} both mean {short!r}")
    expected: set[str] = set()
    table = filled(rules, layers)
    for rule in table:
        path = shapes[rule.path]
        part_shape = (*path[:-1], path[-1] // len(rule.parts))
        part_shape = part_shape[::-1] if rule.transpose else part_shape
        for part in rule.parts:
            expected.add(part)
            if part not in canonical:
                complaints.append(f"missing: {part!r} {list(part_shape)}")
            elif tuple(found[canonical[part][0]]) != part_shape:
                complaints.append(
                    f"wrong shape: {part!r} is {list(found[canonical[part][0]])}, expected {list(part_shape)}"
                )
    for short, names in canonical.items():
        if short not in expected and not _matches(short, passthrough):
            complaints.append(f"unknown: {names[0]!r} {list(found[names[0]])}")
    if complaints:
        raise ModelFolderError(
            f"{tensors.where}: the weights do not fit config.json. {len(complaints)} complaint(s): "
            + "; ".join(complaints)
            + ". Expected exactly the tensors of this family; check config.json or fetch the model again."
        )

    converted = Converted(params={}, renamed={c: n[0] for c, n in canonical.items() if n[0] != c})
    not_finite: list[str] = []
    too_fine: list[str] = []
    for rule in table:
        parts = []
        for part in rule.parts:
            array = tensors.read(canonical[part][0])
            if not np.issubdtype(array.dtype, np.floating) and array.dtype.name not in ("bfloat16",):
                complaints.append(f"{part!r} is {array.dtype.name}, expected floating-point numbers")
                continue
            if array.dtype != np.float32:
                converted.dtypes[part] = array.dtype.name
            if not _all_finite(array):
                not_finite.append(part)
            elif array.dtype.itemsize > 4 and not _fits_float32(array):
                too_fine.append(part)
            with np.errstate(over="ignore"):  # parts may differ in dtype
                parts.append((array.T if rule.transpose else array).astype(np.float32, copy=False))
        if len(parts) == len(rule.parts):
            joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
            converted.params[rule.path] = put(rule.path, np.ascontiguousarray(joined))
    if too_fine:
        complaints.append("more than float32 can hold: " + ", ".join(repr(name) for name in too_fine))
    if not_finite:
        complaints.append("not finite (NaN or infinity): " + ", ".join(repr(name) for name in not_finite))
    if complaints:
        raise ModelFolderError(
            f"{tensors.where}: " + "; ".join(complaints) + ". The weights are damaged; fetch the model again."
        )
    for short, names in canonical.items():
        if short not in expected:
            converted.passthrough[short] = tensors.read(names[0])
    return converted


def _fits_float32(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float32).astype(array.dtype), array))


def _all_finite(array: np.ndarray) -> bool:
    # One sum finds every NaN and infinity without a second array; a finite overflow is told apart by looking closely.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum(dtype=np.float64))) or bool(np.isfinite(array).all())


def export(converted: Converted, rules: Sequence[Rule], *, layers: int) -> dict[str, np.ndarray]:
    """The checkpoint in their names again: the inverse of `convert`, to the bit.

    Example:
        >>> rules = [Rule(("q", "k"), "qk.kernel", transpose=True)]
        >>> converted = Converted({"qk.kernel": np.arange(4, dtype=np.float32).reshape(1, 4)})
        >>> {name: array.tolist() for name, array in export(converted, rules, layers=0).items()}
        {'q': [[0.0], [1.0]], 'k': [[2.0], [3.0]]}
    """
    tensors: dict[str, np.ndarray] = {}
    for rule in filled(rules, layers):
        parts = np.split(np.asarray(converted.params[rule.path]), len(rule.parts), axis=-1)
        for name, part in zip(rule.parts, parts, strict=True):
            array = part.T if rule.transpose else part
            dtype = _dtype(converted.dtypes.get(name, "float32"))
            tensors[converted.renamed.get(name, name)] = np.ascontiguousarray(array, dtype=dtype)
    for name, array in converted.passthrough.items():
        tensors[converted.renamed.get(name, name)] = array
    return tensors


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes  # comes with jax; NumPy has no bfloat16 of its own

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def nest(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Flat paths to a nested dict; a number in a path is a list index, as flax keeps it.

    Example:
        >>> nest({"blocks.0.bias": 1, "norm.scale": 2})
        {'blocks': {0: {'bias': 1}}, 'norm': {'scale': 2}}
    """
    tree: dict[Any, Any] = {}
    for path, value in flat.items():
        *parents, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict to flat paths: the inverse of `nest`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat
