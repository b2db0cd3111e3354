"""Changes the parts of a model before it is trained: a Dense or Normalize module at its end, fewer layers.

    smaller = add_dense(encoder, pca.components_, bias=False, activation="identity")    # 384 -> 128 dimensions by a PCA
    wider = add_dense(encoder, 256)                                                     # random weights, to be trained
    student = keep_layers(encoder, [0, 2, 4])                                           # a student with every other layer

A PCA is the reduction in Su et al. 2021, "Whitening Sentence Representations", without its whitening; a student that has
some layers of its teacher is Sanh et al. 2019 (DistilBERT), section 3. Each function returns a new model, which shares the
remaining weights and is saved as an ordinary folder; the results agree with sentence-transformers' `add_module`.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.arguments import check_bool, check_choice, check_positive, seed_number
from minisbert.checkpoint import modules
from minisbert.errors import InputError, short_repr
from minisbert.inference.engines import need_jax
from minisbert.modules import ACTIVATIONS, Dense
from minisbert.sentence_encoder import SentenceEncoder

# The families whose layers are alike, each with weights of its own; the names of their number.
_ALIKE = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "ernie", "distilbert")
_COUNTS = ("num_hidden_layers", "n_layers")


def add_dense(
    encoder: SentenceEncoder, weights: Any, *, bias: bool = True, activation: str = "tanh", seed: int = 0
) -> SentenceEncoder:
    """The model with a Dense module after its last one: activation(x W + b).

    Args:
        weights: `[out_features, in_features]`, such as the `components_` of scikit-learn's PCA; or the number of output
            features, for random weights from the `seed`. The bias begins as 0.
        activation: identity, tanh, relu, gelu, silu or sigmoid.

    Raises:
        InputError: weights of another shape or not finite; an unknown activation; a model with a Router.

    Example:
        >>> encoder = SentenceEncoder("weights/tiny-bert")
        >>> add_dense(encoder, np.eye(32)[:8], bias=False, activation="identity").encode("a cat").shape
        (8,)
    """
    _check(encoder)
    check_choice("activation", activation, list(ACTIVATIONS))
    check_bool("bias", bias)
    width, given_ED = encoder.model_config.dimension, None
    if isinstance(weights, int):
        out_features = check_positive("weights", weights)
    else:
        given_ED = np.asarray(weights)
        if (
            given_ED.ndim != 2
            or given_ED.shape[1] != width
            or given_ED.dtype.kind != "f"
            or not np.isfinite(given_ED).all()
        ):
            raise InputError(
                f"weights is {short_repr(weights)}. Expected the number of output features, or finite weights "
                f"[out_features, {width}], one column per dimension of the model's embeddings."
            )
        out_features = len(given_ED)
    module = modules.Dense(width, out_features, bias, activation)
    head = nnx.to_pure_dict(nnx.state(Dense(module, rngs=nnx.Rngs(seed_number("seed", seed)))))
    if given_ED is not None:
        head["linear"]["kernel"] = jnp.asarray(given_ED.T, jnp.float32)
    heads = encoder.params.get("heads", {})
    return _changed(encoder, {**encoder.params, "heads": {**heads, len(heads): head}}, module)


def add_normalize(encoder: SentenceEncoder) -> SentenceEncoder:
    """The model with a Normalize module after its last one, which scales embeddings to length 1.

    Example:
        >>> round(float(np.linalg.norm(add_normalize(SentenceEncoder("weights/tiny-bert")).encode("a cat"))), 4)
        1.0
    """
    _check(encoder)
    return _changed(encoder, encoder.params, modules.Normalize())


def keep_layers(encoder: SentenceEncoder, layers: Sequence[int]) -> SentenceEncoder:
    """The model with these of its transformer layers alone, counted from 0, in rising order.

    Raises:
        InputError: not such a list; a family whose layers differ or share weights; a model that averages its layers.

    Example:
        >>> keep_layers(SentenceEncoder("weights/tiny-bert"), [1]).model_config.encoder.num_hidden_layers
        1
    """
    _check(encoder)
    config, blocks = encoder.model_config, encoder.params["encoder"].get("blocks", {})
    if config.model_type not in _ALIKE or config.pools_layers:
        averages = ", which averages its layers" if config.pools_layers else ""
        raise InputError(
            f"the model is of the family {config.model_type}{averages}. Expected one of {', '.join(_ALIKE)}, whose layers are "
            "alike and separate."
        )
    kept = list(layers) if isinstance(layers, list | tuple | range) else []
    if not kept or any(type(i) is not int or i not in blocks for i in kept) or sorted(set(kept)) != kept:
        raise InputError(
            f"layers is {short_repr(layers)}. Expected numbers from 0 to {len(blocks) - 1}, in rising order."
        )
    params = {**encoder.params["encoder"], "blocks": {new: blocks[old] for new, old in enumerate(kept)}}
    return _changed(encoder, {**encoder.params, "encoder": params}, layers=len(kept))


def _check(encoder: Any) -> None:
    if not isinstance(encoder, SentenceEncoder) or encoder.compute_dtype != "float32":
        raise InputError(f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder in float32.")
    need_jax(encoder, "change its modules or layers")
    if encoder.routes:
        raise InputError("the model has a Router. Expected a single model: change one of its routes by itself.")


def _changed(
    encoder: SentenceEncoder, params: dict[str, Any], *added: modules.Module, layers: int | None = None
) -> SentenceEncoder:
    """The encoder with other parameters, modules at its end, or another number of layers, and its own settings."""
    model, config = encoder._current(encoder), encoder.model_config
    config, folder = replace(config, modules=(*config.modules, *added)), model.folder
    if layers is not None:
        counts = dict.fromkeys((key for key in _COUNTS if key in folder.config), layers)
        folder = replace(folder, config={**folder.config, **counts})
        counts = {one.name: layers for one in fields(config.encoder) if one.name in _COUNTS}
        config = replace(config, encoder=replace(config.encoder, **counts))
    return SentenceEncoder(replace(model, folder=folder, model_config=config, params=params))
