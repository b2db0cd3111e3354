"""What a model consists of, whichever engine computes it: `ModelConfig`, and the steps from the encoder to `Embeddings`."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from minisbert.checkpoint.modules import Module, Pooling, TrainedPooling, WeightedLayerPooling, WithWeights
from minisbert.errors import InputError
from minisbert.pooling import COUNT_PLACES, POOLINGS, TRAINED_POOLINGS, each_text, pool
from minisbert.similarity import normalize

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder

Encoder = TypeVar("Encoder", bound=Any)
Array = Any  # jax.Array; from the NumPy engine numpy.ndarray


@dataclass(frozen=True)
class ModelConfig:
    """The parts of a model: an encoder family with its Config, then pooling and the modules after it."""

    model_type: str
    encoder: Any  # the Config of its family
    modules: tuple[Module, ...] = (Pooling(),)

    @staticmethod
    def of(folder: "ModelFolder") -> "ModelConfig":
        """The parts of the model in a folder."""
        return ModelConfig(folder.model_type, folder.encoder, folder.modules)

    @cached_property
    def dimension(self) -> int:
        """Width of the sentence embedding."""
        width: int = self.encoder.hidden_size
        for module in self.modules:
            width = module.width(width)
        return width

    @property
    def is_static(self) -> bool:
        """Whether the encoder is a table of vectors: no special tokens around a text, and its own mean of the tokens."""
        return self.model_type == "static"

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
        if self.is_static:
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

    token_BLD: Array
    sentence_BD: Array


def token_embeddings(
    modules: Sequence[Module], heads: Sequence[Callable[..., Array]], hidden_IBLD: list[Array]
) -> Array:
    """hidden_BLD: the encoder's last layer, or a weighted mean of its layers where the modules begin with one.

    Args:
        modules: those after the encoder.
        heads: functions of those that have weights, in order.
    """
    token_BLD = heads[0](hidden_IBLD) if isinstance(modules[0], WeightedLayerPooling) else hidden_IBLD[-1]
    xp = token_BLD.__array_namespace__()  # in bfloat16 the layers on a TPU are narrower (transformer/target.py)
    return token_BLD.astype(xp.promote_types(token_BLD.dtype, xp.float32), copy=False)


def sentence_embedding(
    modules: Sequence[Module],
    heads: Sequence[Callable[..., Array]],
    token_BLD: Array,
    mask_BL: Array,
    after_prompt_BL: Array,
    positions_BL: Array | None = None,
) -> Array:
    """sentence_BD of token embeddings: pooling and the modules after it. With masks_BTL, sentence_BTD (`pooling.pool`).

    Args:
        modules, heads: as for `token_embeddings`.
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
            if counts_BL.ndim == 3:
                places_BL = positions_BL if module.name in COUNT_PLACES else None
                sentence_BD = each_text(trained, token_BLD, counts_BL, places_BL)
            else:
                sentence_BD = trained(token_BLD, counts_BL)
        elif isinstance(module, WithWeights):
            sentence_BD = next(with_weights)(sentence_BD)
        else:
            sentence_BD = normalize(sentence_BD)
    return sentence_BD


def with_pooling(model: Encoder, *modes: str, seed: int = 0) -> Encoder:
    """A copy of the model with the same weights and another pooling; several are concatenated.

    The weights were trained with the model's own pooling and are usually worse with another (notebooks/07).

    Args:
        model: a SentenceEncoder; with a Router, take one of its `routes`.
        modes: names in `POOLINGS`, such as "cls" or "max"; or one pooling with weights (register.py), which gets new ones.

    Raises:
        InputError: an unknown pooling, or a model that has none to replace.

    Example:
        >>> from minisbert import SentenceEncoder
        >>> SentenceEncoder("weights/tiny-bert").with_pooling("cls", "mean").encode("a cat").shape
        (64,)
    """
    trained = modes[0] if len(modes) == 1 and modes[0] in [*TRAINED_POOLINGS] else None
    if not modes or (trained is None and any(mode not in [*POOLINGS] for mode in modes)):  # a list has no hash
        names = ", ".join([*POOLINGS, *(f"{name} (alone)" for name in TRAINED_POOLINGS)])
        raise InputError(f"modes is {modes}. Expected one or more of {names}.")
    if getattr(model, "routes", None):
        raise InputError("the model has a Router, each of whose routes has a pooling. Expected one of model.routes.")
    config: ModelConfig = model.model_config
    if config.is_static:
        raise InputError(f"a {config.model_type} model averages its tokens itself. Expected a model with a Pooling.")
    old = next(module for module in config.modules if isinstance(module, Pooling | TrainedPooling))
    new = (
        Pooling(modes, old.include_prompt)
        if trained is None
        else TrainedPooling(trained, config.encoder.hidden_size, old.include_prompt)
    )
    at = config.modules.index(old)
    after = [module for module in config.modules[at + 1 :] if isinstance(module, WithWeights)]
    if after and new.width(1) != old.width(1):
        raise InputError(
            f"modes is {modes}, but the {type(after[0]).__name__} after the pooling was trained for {old.width(1)} of them. "
            "Expected as many."
        )
    changed = replace(config, modules=(*config.modules[:at], new, *config.modules[at + 1 :]))
    weights, heads = iter(model.params.get("heads", {}).values()), []
    for before, module in zip(config.modules, changed.modules, strict=True):
        given = next(weights) if isinstance(before, WithWeights) else None
        if module is new and trained is not None:
            from flax import nnx

            from minisbert.modules import HEADS

            given = nnx.to_pure_dict(nnx.state(HEADS[TrainedPooling](new, rngs=nnx.Rngs(seed))))
        heads += [given] if isinstance(module, WithWeights) else []
    params = {"encoder": model.params["encoder"]} | ({"heads": dict(enumerate(heads))} if heads else {})
    copied = copy.copy(model)
    vars(copied).pop("forward", None)  # compiled for the other pooling
    copied.model_config, copied.pretrained = changed, replace(model.pretrained, model_config=changed, params=params)
    return copied
