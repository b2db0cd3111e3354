"""Parts from outside the package by name: losses, poolings, similarities, encoder families.

    register_pooling("first_and_mean", first_and_mean)       then models with it are saved and loaded like any other
    encoder = encoder.with_pooling("first_and_mean")

Each function checks what it is given and adds a row to the table that the package itself uses. A name that is taken is refused
(except by the same part again). A folder that names a part which is not registered is refused; nothing that a folder names is
ever imported. For the command line, an installed package registers its parts in a function named as entry point:

    [project.entry-points."minisbert.plugins"]
    mine = "my_package:register"
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert import pooling as poolings
from minisbert import similarity as similarities
from minisbert.checkpoint.convert import LETTERS, Rule, flatten
from minisbert.checkpoint.folder import SIMILARITY_NAMES
from minisbert.checkpoint.modules import POOLING_MODES, TRAINED_RULES
from minisbert.cross_encoder.losses import CROSS_ENCODER_LOSSES
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError, short_repr
from minisbert.modules import abstract
from minisbert.training.losses import LOSSES, Loss

# What a family's module must have, such as encoders/bert.py.
FAMILY_PARTS = ("Config", "Encoder", "RULES", "PASSTHROUGH", "PREFIX")


def register_loss(name: str, loss: Loss | Callable[..., jax.Array], *, cross_encoder: bool = False) -> None:
    """Add a loss, for `TrainConfig(loss=name)` and `--loss name`.

    Args:
        loss: a function of the embeddings (or logits), or a `Loss` with what it needs.
        cross_encoder: for cross-encoders.

    Example:
        >>> from minisbert.training.losses import triplet
        >>> register_loss("triplet", LOSSES["triplet"])  # the same part again
    """
    if not isinstance(loss, Loss) and not callable(loss):
        raise InputError(f"loss is {short_repr(loss)}. Expected a function of the embeddings, or a Loss.")
    _add(CROSS_ENCODER_LOSSES if cross_encoder else LOSSES, name, loss if isinstance(loss, Loss) else Loss(loss))


def register_pooling(name: str, pooling: Callable[..., Any]) -> None:
    """Add a pooling.

    Args:
        pooling: a function (hidden_BLD, mask_BL) -> sentence_BD; or, with weights, a flax module class whose instances
            `pooling(width, rngs=rngs)` are such functions.

    Raises:
        InputError: it does not map `[2, 3, 4]` to `[2, 4]`, padding counts in it, JAX cannot compile it, or a module has
            arrays that are not trained.
    """
    trained = isinstance(pooling, type) and issubclass(pooling, nnx.Module)
    function = pooling(4, rngs=nnx.Rngs(0)) if trained else pooling
    if trained:
        _check_arrays(name, function)
    if not callable(function):
        raise InputError(
            f"pooling is {short_repr(pooling)}. Expected a function of hidden_BLD and mask_BL, or a module class."
        )
    hidden_BLD, mask_BL = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.array([[1, 1, 0], [1, 1, 1]], bool)
    other_BLD = hidden_BLD.copy()
    other_BLD[0, 2] = -7  # padding
    try:
        jax.eval_shape(function, hidden_BLD, mask_BL)
    except jax.errors.JAXTypeError as error:  # a program of NumPy, or a Python `if` on values
        raise InputError(
            f"pooling {name!r} cannot be compiled ({type(error).__name__}). Expected jax.numpy instead of numpy, and "
            "jnp.where instead of `if`."
        ) from error
    found, other = (np.asarray(function(jnp.asarray(x), jnp.asarray(mask_BL))) for x in (hidden_BLD, other_BLD))
    if found.shape != (2, 4) or not np.array_equal(found, other):
        counts = "" if np.array_equal(found, other) else ", and padding changes it"
        raise InputError(
            f"pooling {name!r} maps [2, 3, 4] to {list(found.shape)}{counts}. Expected [2, 4], and no effect of "
            "tokens whose mask is False."
        )
    if trained:
        _add(poolings.TRAINED_POOLINGS, name, pooling)
        TRAINED_RULES[name] = partial(_trained_rules, pooling)
    else:
        _add(poolings.POOLINGS, name, pooling, POOLING_MODES)
    if _counts_places(function):
        poolings.COUNT_PLACES.add(name)


def _counts_places(pooling: Callable[..., Any]) -> bool:
    """Whether the result depends on where in its row a text begins: training packs several texts into a row."""
    rng = np.random.default_rng(0)
    if isinstance(pooling, nnx.Module):  # its weights may all be equal before training
        definition, state = nnx.split(pooling)
        pooling = nnx.merge(
            definition, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state)
        )
    text_LD = rng.normal(size=(3, 4)).astype(np.float32)
    for length in (8, 512):
        rows_BLD, mask_BL = np.zeros((2, length, 4), np.float32), np.zeros((2, length), bool)
        rows_BLD[0, :3] = rows_BLD[1, -3:] = text_LD
        mask_BL[0, :3] = mask_BL[1, -3:] = True
        try:
            first_D, last_D = np.asarray(pooling(jnp.asarray(rows_BLD), jnp.asarray(mask_BL)))
        except Exception:  # it has weights for a number of places
            return True
        if not np.allclose(first_D, last_D, rtol=1e-5, atol=1e-6):
            return True
    return False


def _check_arrays(name: str, module: Any) -> None:
    """A folder has the weights of a pooling and the optimizer changes all of them: there is no place for other arrays."""
    for path, one in nnx.to_flat_state(nnx.state(module)):
        dtype = getattr(one, "dtype", None)
        if not isinstance(one, nnx.Param) or dtype != jnp.float32:
            raise InputError(
                f"pooling {name!r} has {'.'.join(map(str, path))!r}, {type(one).__name__} of {dtype}. Expected weights alone, "
                "nnx.Param of float32: make constants in __call__, and leave out dropout and running averages."
            )


def _trained_rules(pooling: Callable[..., Any], width: int) -> list[Rule]:
    _, shapes = abstract(lambda rngs: pooling(width, rngs=rngs))
    return [Rule(name, name, leaf.shape) for name, leaf in flatten(shapes).items()]


def register_similarity(name: str, all_pairs: Callable[..., Any], pairwise: Callable[..., Any]) -> None:
    """Add a similarity, for `similarity_fn_name`; larger means more similar.

    Args:
        all_pairs: a_BD, b_MD -> similarity_BM.
        pairwise: a_BD, b_BD -> similarity_B, its diagonal.

    Raises:
        InputError: the two disagree.
    """
    if not callable(all_pairs) or not callable(pairwise):
        raise InputError(
            f"similarity {name!r} is {short_repr(all_pairs)}, {short_repr(pairwise)}. Expected two functions."
        )
    a_BD, b_BD = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    matrix, rows = np.asarray(all_pairs(a_BD, b_BD)), np.asarray(pairwise(a_BD, b_BD))
    if matrix.shape != (3, 3) or rows.shape != (3,) or not np.allclose(np.diagonal(matrix), rows, rtol=1e-5, atol=1e-6):
        raise InputError(
            f"similarity {name!r}: of three vectors each, all pairs are {list(matrix.shape)}, row by row {list(rows.shape)}. "
            "Expected [3, 3] and, with the numbers of its diagonal, [3]."
        )
    _add(similarities.SIMILARITIES, name, all_pairs)
    _add(similarities.PAIRWISE_SIMILARITIES, name, pairwise, SIMILARITY_NAMES)


def register_encoder(model_type: str, family: ModuleType) -> None:
    """Add an encoder family, for folders whose config.json has this `model_type`.

    Args:
        family: a Python module with the parts of encoders/bert.py: `Config` (a dataclass with from_json and max_positions),
            `Encoder` (a flax module), `RULES`, `PASSTHROUGH` and `PREFIX`; Config has the sizes that RULES name.

    Raises:
        InputError: naming every part that is missing.
    """
    missing = [part for part in FAMILY_PARTS if not hasattr(family, part)]
    if not missing:
        config = family.Config
        names = {field.name for field in fields(config)} if is_dataclass(config) else set()
        wanted = {"from_json", "max_positions", "vocab_size", "hidden_size", "num_hidden_layers"}
        shapes = [rule.shape for rule in family.RULES if isinstance(rule.shape, str)]
        wanted |= {LETTERS[axis[-1]] for shape in shapes for axis in shape.split(",") if axis[-1] in LETTERS}
        wanted |= {rule.when for rule in family.RULES if rule.when}
        missing = [f"Config.{name}" for name in sorted(wanted) if name not in names and not hasattr(config, name)]
    if missing:
        raise InputError(f"encoder {model_type!r} has no {', '.join(missing)}. Expected the parts of encoders/bert.py.")
    _add(FAMILIES, model_type, family)


def _add(table: Any, name: str, part: Any, names: list[str] | None = None) -> None:
    """A row of the table; `names` are those that a folder's settings may have."""
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise InputError(f"name is {short_repr(name)}. Expected letters, digits, _ and -, not beginning with a digit.")
    if table.get(name, part) != part:
        raise InputError(f"the name {name!r} is taken. Expected another one than {', '.join(table)}.")
    table[name] = part
    if names is not None and name not in names:
        names.append(name)
