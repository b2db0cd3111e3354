"""The whole model as one module: tokens -> encoder -> pooling -> Dense, LayerNorm, Normalize -> sentence embedding.

This is the bi-encoder of SBERT (Reimers & Gurevych 2019, figure 2). `SentenceEncoder` adds the tokenizer; training
differentiates it. A `ModelConfig` lists its parts.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from minisbert.checkpoint.modules import Module
from minisbert.checkpoint.poolings import Pooling, TrainedPooling, WeightedLayerPooling
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError
from minisbert.modules import HEADS, abstract
from minisbert.pooling import POOLINGS, TRAINED_POOLINGS, pool, tokens_per_text
from minisbert.similarity import normalize
from minisbert.text.packing import PackedTexts
from minisbert.transformer.dropout import packed_token_keys, token_keys
from minisbert.transformer.target import widened

Encoder = TypeVar("Encoder", bound=Any)


@dataclass(frozen=True)
class ModelConfig:
    """The parts of a model: an encoder family with its Config, then pooling and the modules after it."""

    model_type: str
    encoder: Any  # the Config of its family
    modules: tuple[Module, ...] = (Pooling(),)

    @cached_property
    def dimension(self) -> int:
        """Width of the sentence embedding."""
        width: int = self.encoder.hidden_size
        for module in self.modules:
            width = module.width(width)
        return width

    @property
    def pools_layers(self) -> bool:
        """Whether the token embeddings are averaged over the encoder's layers."""
        return bool(self.modules) and isinstance(self.modules[0], WeightedLayerPooling)

    def describe(self, **lengths: Any) -> list[str]:
        """One line per module, as sentence-transformers prints them.

        Args:
            lengths: settings of the transformer that are not in the config.
        """
        first, modules = f"Transformer({lengths}) with {self.model_type} encoder", self.modules
        if FAMILIES[self.model_type].MODULE.pools:
            first, modules = f"StaticEmbedding({{'embedding_dimension': {self.encoder.hidden_size}}})", modules[1:]
        lines = [first]
        for module in modules:
            settings = dict(vars(module))
            settings.pop("path", None)
            if isinstance(module, Pooling):
                modes = module.modes[0] if len(module.modes) == 1 else module.modes
                settings = {
                    "embedding_dimension": self.encoder.hidden_size,
                    "pooling_mode": modes,
                    "include_prompt": module.include_prompt,
                }
            lines.append(f"{type(module).__name__}({settings or ''})")
        return lines


class Embeddings(NamedTuple):
    """The outputs of the model for a batch."""

    token_BLD: jax.Array
    sentence_BD: jax.Array


class SentenceModel(nnx.Module):
    """token ids -> `Embeddings`; the one set of weights that a siamese network uses for every text."""

    def __init__(self, model_config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.model_config = model_config
        self.encoder = FAMILIES[model_config.model_type].Encoder(model_config.encoder, dtype=dtype, rngs=rngs)
        self.heads = heads_of(model_config.modules, rngs)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        lengths_B: jax.Array,
        prompt_length: jax.Array | int = 0,
        dropout_keys_B: jax.Array | None = None,
    ) -> Embeddings:
        """Embed a batch of texts, one per row, padded on the right.

        Args:
            token_ids_BL: token ids; those beyond a row's length are padding and never count.
            lengths_B: how many tokens of each row are real; 0 makes a row of padding (its embedding is meaningless).
            prompt_length: tokens of a prompt to leave out of the pooling, for models trained that way.
            dropout_keys_B: one dropout key per text; None means inference.
        """
        position_L = jnp.arange(token_ids_BL.shape[1])
        mask_BL = position_L < lengths_B[:, None]
        dropout_keys_BL = None
        if dropout_keys_B is not None:
            dropout_keys_BL = token_keys(*jnp.broadcast_arrays(dropout_keys_B[:, None], position_L))
        token_BLD = self.tokens(token_ids_BL, mask_BL, dropout_keys_BL)
        return Embeddings(token_BLD, self.embed(token_BLD, mask_BL, mask_BL & (position_L >= prompt_length)))

    def packed(
        self, rows: PackedTexts, dropout_keys_PT: jax.Array | None = None, embeds: str = "sentences"
    ) -> jax.Array:
        """Embed packed rows (text/packing.py): sentence_PTD, as if each text were alone; empty slots are meaningless.

        Args:
            dropout_keys_PT: one dropout key per text; None means inference.
            embeds: "sentences"; "layers" gives layers_PTID, the sentence embedding of every layer, the token embeddings first;
                "tokens" gives token_PTLD, each text's token embeddings, zeros after its end.
        """
        segmentation_PL = jnp.asarray(rows.segmentation_PL)
        attention_mask_PQK = segmentation_PL[:, :, None] == segmentation_PL[:, None, :]
        dropout_keys_PL = (
            None if dropout_keys_PT is None else packed_token_keys(dropout_keys_PT, segmentation_PL, rows.position_PL)
        )
        hidden_IPLD = self.encoder(
            rows.token_ids_PL, attention_mask_PQK, dropout_keys_BL=dropout_keys_PL, positions_BL=rows.position_PL
        )
        T, L = rows.lengths_PT.shape[1], segmentation_PL.shape[1]
        if embeds == "tokens":
            return tokens_per_text(
                token_embeddings(self.model_config.modules, list(self.heads), hidden_IPLD), rows.lengths_PT
            )
        mask_PTL = segmentation_PL[:, None] == jnp.arange(T)[:, None]
        if FAMILIES[self.model_config.model_type].MODULE.special_tokens:
            # An empty slot pools the row's first token: pooling nothing could give a gradient of NaN. A static model
            # needs no token there: nothing pools to the zero vector with gradient 0, as an empty text does.
            mask_PTL |= (rows.lengths_PT == 0)[:, :, None] & (jnp.arange(L) == 0)
        after_prompt_PTL = mask_PTL & (rows.position_PL[:, None] >= rows.prompts_PT[:, :, None])
        if embeds == "layers":
            if self.model_config.pools_layers:
                raise InputError("the model averages its layers. Expected one that pools its last layer.")
            layers = [self.embed(layer_PLD, mask_PTL, after_prompt_PTL, rows.position_PL) for layer_PLD in hidden_IPLD]
            return jnp.stack(layers, axis=2)
        token_PLD = token_embeddings(self.model_config.modules, list(self.heads), hidden_IPLD)
        return self.embed(token_PLD, mask_PTL, after_prompt_PTL, rows.position_PL)

    def tokens(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> jax.Array:
        """token ids -> token embeddings, hidden_BLD: the encoder's last layer, or a weighted mean of its layers.

        Arguments as for the encoders (encoders/bert.py).
        """
        hidden_IBLD = self.encoder(token_ids_BL, mask_BL, dropout_keys_BL=dropout_keys_BL, positions_BL=positions_BL)
        return token_embeddings(self.model_config.modules, list(self.heads), hidden_IBLD)

    def embed(
        self,
        token_BLD: jax.Array,
        mask_BL: jax.Array,
        after_prompt_BL: jax.Array,
        positions_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Token embeddings -> sentence_BD: pooling and the modules after it."""
        modules, heads = self.model_config.modules, list(self.heads)
        return sentence_embedding(modules, heads, token_BLD, mask_BL, after_prompt_BL, positions_BL)


def heads_of(modules: Sequence[Module], rngs: nnx.Rngs) -> nnx.List[Any]:
    """The flax modules of those modules after the encoder that have weights, in order."""
    return nnx.List([HEADS[type(module)].module(module, rngs=rngs) for module in modules if type(module) in HEADS])


def token_embeddings(modules: Sequence[Module], heads: Sequence[Any], hidden_IBLD: list[jax.Array]) -> jax.Array:
    """hidden_BLD: the last layer, or the weighted mean of layers where the chain begins with one."""
    return widened(heads[0](hidden_IBLD) if isinstance(modules[0], WeightedLayerPooling) else hidden_IBLD[-1])


def sentence_embedding(
    modules: Sequence[Module],
    heads: Sequence[Any],
    token_BLD: jax.Array,
    mask_BL: jax.Array,
    after_prompt_BL: jax.Array,
    positions_BL: jax.Array | None = None,
) -> jax.Array:
    """sentence_BD of token embeddings: the pooling and what follows it. With masks_BTL, sentence_BTD (`pooling.pool`).

    Args:
        modules: the chain after the encoder.
        heads: those of `heads_of`.
        after_prompt_BL: the mask without the tokens of a prompt.
        positions_BL: each token's place in its text, where a row holds several texts.
    """
    sentence_BD = token_BLD
    first = 1 if isinstance(modules[0], WeightedLayerPooling) else 0
    with_weights = iter(heads[first:])
    for module in modules[first:]:
        if isinstance(module, Pooling):
            counts_BL = mask_BL if module.include_prompt else after_prompt_BL
            sentence_BD = pool(token_BLD, counts_BL, module.modes, positions_BL)
        elif isinstance(module, TrainedPooling):
            counts_BL, trained = mask_BL if module.include_prompt else after_prompt_BL, next(with_weights)
            if counts_BL.ndim == 3:  # one text of each row at a time
                trained = jax.vmap(trained, in_axes=(None, 1), out_axes=1)
            sentence_BD = trained(token_BLD, counts_BL)
        elif type(module) in HEADS:
            sentence_BD = next(with_weights)(sentence_BD)
        else:
            sentence_BD = normalize(sentence_BD)
    return sentence_BD


def define(model_config: ModelConfig, dtype: DTypeLike = jnp.float32) -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    """The model without its parameters: flax's definition, and the tree of parameter shapes. Nothing is allocated.

    `nnx.merge(definition, params)` inside `jax.jit` or `jax.grad` gives the module back; `params` is a nested dict of
    arrays of these shapes.
    """
    return _define(model_config, jnp.dtype(dtype))


@cache
def _define(model_config: ModelConfig, dtype: jnp.dtype) -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    return abstract(lambda rngs: SentenceModel(model_config, dtype=dtype, rngs=rngs))


def initial_params(model_config: ModelConfig, seed: int) -> dict[Any, Any]:
    """Random parameters, as before any training (normal with the config's `initializer_range`)."""
    model = SentenceModel(model_config, rngs=nnx.Rngs(seed))
    return nnx.to_pure_dict(nnx.state(model))


def with_pooling(model: Encoder, *modes: str, seed: int = 0) -> Encoder:
    """A copy of the model with the same weights and another pooling; several are concatenated.

    The weights were trained with the model's own pooling and are usually worse with another (notebooks/07).

    Args:
        model: a SentenceEncoder; with a Router, take one of its `routes`.
        modes: names in `POOLINGS`, such as "cls" or "max"; or one pooling with weights (register.py), which gets new ones.
        seed: of new weights.

    Raises:
        InputError: an unknown pooling, or a model that has none to replace.

    Example:
        >>> from minisbert import SentenceEncoder
        >>> SentenceEncoder("weights/tiny-bert").with_pooling("cls", "mean").encode("a cat").shape
        (64,)
    """
    trained = modes[0] if len(modes) == 1 and modes[0] in TRAINED_POOLINGS else None
    if not modes or (trained is None and any(mode not in POOLINGS for mode in modes)):
        names = ", ".join([*POOLINGS, *(f"{name} (alone)" for name in TRAINED_POOLINGS)])
        raise InputError(f"modes is {modes}. Expected one or more of {names}.")
    if getattr(model, "routes", None):
        raise InputError("the model has a Router, each of whose routes has a pooling. Expected one of model.routes.")
    config: ModelConfig = model.model_config
    if FAMILIES[config.model_type].MODULE.pools:
        raise InputError(f"a {config.model_type} model averages its tokens itself. Expected a model with a Pooling.")
    old = next(module for module in config.modules if isinstance(module, Pooling | TrainedPooling))
    new = (
        Pooling(modes, old.include_prompt)
        if trained is None
        else TrainedPooling(trained, config.encoder.hidden_size, old.include_prompt)
    )
    at = config.modules.index(old)
    after = [module for module in config.modules[at + 1 :] if type(module) in HEADS]
    if after and new.width(1) != old.width(1):
        raise InputError(
            f"modes is {modes}, but the {type(after[0]).__name__} after the pooling was trained for {old.width(1)} of them. "
            "Expected as many."
        )
    changed = replace(config, modules=(*config.modules[:at], new, *config.modules[at + 1 :]))
    weights, heads = iter(model.params.get("heads", {}).values()), []
    for before, module in zip(config.modules, changed.modules, strict=True):
        given = next(weights) if type(before) in HEADS else None
        if module is new and trained is not None:
            given = nnx.to_pure_dict(nnx.state(HEADS[TrainedPooling].module(new, rngs=nnx.Rngs(seed))))
        heads += [given] if type(module) in HEADS else []
    params = {"encoder": model.params["encoder"]} | ({"heads": dict(enumerate(heads))} if heads else {})
    copied = copy.copy(model)
    vars(copied).pop("forward", None)  # compiled for the other pooling
    copied.model_config, copied.pretrained = changed, replace(model.pretrained, model_config=changed, params=params)
    return copied
