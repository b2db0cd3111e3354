"""The modules of a sentence-transformers folder, and the settings of each.

    Transformer, StaticEmbedding    text -> token embeddings: the encoder
    WeightedLayerPooling            all layers of a transformer -> token embeddings
    Pooling                         token embeddings -> sentence embedding
    Dense, LayerNorm, Normalize     sentence embedding -> sentence embedding; any number, in any order
    Router                          one chain of these per kind of text: router.py

Each has a class name (several, over the years) and a dataclass, joined in the tables. Class names are looked up; nothing that
a folder names is ever imported. module_settings.py reads the settings from a folder, folder_writer.py writes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from minisbert.checkpoint.static_folder import StaticTensors
from minisbert.checkpoint.tensors import SafetensorsFiles

# Our name of a module -> the names of its class and of the file of that class.
_CLASSES = {
    "transformer": [("Transformer", "transformer")],
    "static_embedding": [("StaticEmbedding", "static_embedding")],
    "router": [("Router", "router"), ("Asym", "asym")],
    "weighted_layer_pooling": [("WeightedLayerPooling", "weighted_layer_pooling")],
    "pooling": [("Pooling", "pooling")],
    "dense": [("Dense", "dense")],
    "layer_norm": [("LayerNorm", "layer_norm")],
    "normalize": [("Normalize", "normalize")],
}
# Up to 5.3 modules.json has the class alone or, in a Router, its file too; from 5.4 its file, in one of two packages.
_PACKAGES = ("models", "base.modules", "sentence_transformer.modules")
MODULE_TYPES = {
    f"sentence_transformers.{package}.{path}": kind
    for kind, names in _CLASSES.items()
    for package in _PACKAGES
    for name, file in names
    for path in (name, f"{name}.{name}", f"{file}.{name}")
}

# Old boolean -> pooling mode, in the order in which several modes are concatenated.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = tuple(POOLING_FLAGS.values())

# The class of a Dense module's activation -> our name (minisbert/modules.py). Looked up, never imported.
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}


def _path() -> Any:
    """The module's folder within the model's: not part of what it computes."""
    return field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class WeightedLayerPooling:
    """Token embeddings as a weighted mean of layers `layer_start` to the last; layer 0 is the input of the first block."""

    layer_start: int
    num_hidden_layers: int
    path: str = _path()

    @property
    def layers(self) -> int:
        """How many layers are averaged, with one weight each."""
        return self.num_hidden_layers + 1 - self.layer_start

    def width(self, before: int) -> int:
        return before


@dataclass(frozen=True)
class Pooling:
    """Token embeddings -> one vector; several modes are concatenated in the order given."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def width(self, before: int) -> int:
        return before * len(self.modes)


@dataclass(frozen=True)
class Dense:
    """A linear map with an activation on the sentence embedding; its weights are in `path`."""

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "tanh"
    path: str = _path()

    def width(self, before: int) -> int:
        return self.out_features


@dataclass(frozen=True)
class LayerNorm:
    """Layer norm (Ba et al. 2016) of the sentence embedding; its weights are in `path`."""

    dimension: int
    path: str = _path()

    def width(self, before: int) -> int:
        return self.dimension


@dataclass(frozen=True)
class Normalize:
    """Scale the sentence embedding to length 1."""

    def width(self, before: int) -> int:
        return before


# Each module's `width(before)` is the width of its output, for an input of width `before`.
Module = WeightedLayerPooling | Pooling | Dense | LayerNorm | Normalize


class EncoderModule(NamedTuple):
    """The first module of a chain, which holds the encoder: how its folder differs from the other kind's."""

    name: str  # the class of sentence-transformers
    tensors: Callable[[Path], Any]  # opens its weights
    has_config: (
        bool  # config.json and sentence_bert_config.json; without them the weights and tokenizer.json say it all
    )
    special_tokens: bool  # the tokenizer puts some around each text; without them a text can have no tokens
    pools: bool  # the class averages its tokens itself, so our chain's first Pooling is not written


TRANSFORMER = EncoderModule("Transformer", SafetensorsFiles, has_config=True, special_tokens=True, pools=False)
STATIC_EMBEDDING = EncoderModule("StaticEmbedding", StaticTensors, has_config=False, special_tokens=False, pools=True)


class Part(NamedTuple):
    """One module of a chain: its kind and its folder, as `modules.json` or `router_config.json` names them."""

    kind: str
    path: str
