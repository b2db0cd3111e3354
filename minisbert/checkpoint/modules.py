"""The modules of a sentence-transformers folder, and the settings of each.

    Transformer, StaticEmbedding    text -> token embeddings: the encoder
    WeightedLayerPooling            all layers of a transformer -> token embeddings
    Pooling                         token embeddings -> sentence embedding
    Dense, LayerNorm, Normalize     sentence embedding -> sentence embedding; any number, in any order
    Router                          one chain of these per kind of text: router.py

Each has a class name (several, over the years) and, after the encoder, a dataclass that reads its settings and writes them
in the older dialect. Class names are looked up; nothing that a folder names is ever imported. A setting that is not
understood is refused, since guessing could change the embeddings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.poolings import Given, Pooling, TrainedPooling, WeightedLayerPooling, path_field
from minisbert.checkpoint.settings import Settings
from minisbert.errors import ModelFolderError

# Our name of a module -> the names of its class and of the file of that class.
_CLASSES = {
    "transformer": [("Transformer", "transformer")],
    "static_embedding": [("StaticEmbedding", "static_embedding")],
    "router": [("Router", "router"), ("Asym", "asym")],
    "weighted_layer_pooling": [("WeightedLayerPooling", "weighted_layer_pooling")],
    "pooling": [("Pooling", "pooling")],
    "dense": [("Dense", "dense")],
    "layer_norm": [("LayerNorm", "layer_norm")],
    "dropout": [("Dropout", "dropout")],  # only training drops numbers: left out when a chain is read
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

MODULE_TYPES["minisbert.TrainedPooling"] = "trained_pooling"


class Part(NamedTuple):
    """One module of a chain: its kind and its folder, as `modules.json` or `router_config.json` names them."""

    kind: str
    path: str


def unknown_type(module: str, name: Any, file: Path, *, in_router: bool = False) -> ModelFolderError:
    """The error for a class that is not in `MODULE_TYPES`."""
    here, router = (" within a Router", "") if in_router else ("", "Router, ")
    return ModelFolderError(
        f"{file}: module {module!r} is of type {name!r:.200}, which minisbert does not compute{here} (and never imports). "
        f"Expected Transformer, StaticEmbedding, {router}Pooling, WeightedLayerPooling, Dense, LayerNorm or Normalize of "
        "sentence-transformers; use another model."
    )


# The class of a Dense module's activation -> our name (minisbert/modules.py). Looked up, never imported.
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
DENSE_ACTIVATIONS |= {f"torch.nn.{name.rpartition('.')[2]}": ours for name, ours in DENSE_ACTIVATIONS.items()}


# poolings.py says what methods a module has.

_ENDS = ("module_input_name", "module_output_name")  # of what a module takes and returns


def _check_ends(settings: Settings, scores: bool = False) -> None:
    for key in _ENDS:
        if scores and key == "module_output_name":
            settings.choice(key, ["scores"], why="a reranker ends in its scores")
        else:
            settings.choice(key, ["sentence_embedding", None], default=None, why="modules after the pooling work on it")


@dataclass(frozen=True)
class Dense:
    """A linear map with an activation on the sentence embedding; its weights are in `path`."""

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "tanh"
    residual: bool = False  # add the input, through a linear map of its own where the widths differ
    scores: bool = False  # the output are the logits of a reranker
    path: str = path_field()

    def width(self, before: int) -> int:
        return self.out_features

    @property
    def maps_residual(self) -> bool:
        """The input is added through a matrix, since the widths differ."""
        return self.residual and self.in_features != self.out_features

    def rules(self) -> list[Rule]:
        widths = (self.in_features, self.out_features)
        residual = linear("residual", "residual", widths)[:1] if self.maps_residual else []
        return [*linear("linear", "linear", widths)[: 2 if self.bias else 1], *residual]

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "Dense":
        settings.known(["in_features", "out_features", "bias", "activation_function", "use_residual", *_ENDS])
        _check_ends(settings, given.scores)
        activation = settings.choice(
            "activation_function", DENSE_ACTIVATIONS, default="torch.nn.modules.activation.Tanh", why="never imported"
        )
        dense = Dense(
            in_features=settings.size("in_features"),
            out_features=settings.size("out_features"),
            bias=settings.flag("bias", default=True),
            activation=DENSE_ACTIVATIONS[activation],
            residual=settings.flag("use_residual", default=False),
            scores=given.scores,
            path=path,
        )
        settings.finish()
        if given.width is not None and dense.in_features != given.width:
            raise ModelFolderError(
                f"{settings.where}: 'in_features' is {dense.in_features}. Expected {given.width}, the width of the module "
                "before; download the model again."
            )
        return dense

    def to_json(self, width: int) -> dict[str, Any]:
        sizes = {"in_features": self.in_features, "out_features": self.out_features, "bias": self.bias}
        activation = next(name for name, ours in DENSE_ACTIVATIONS.items() if ours == self.activation)
        newer: dict[str, Any] = {"use_residual": True} if self.residual else {}  # older readers do not know these
        newer |= {"module_output_name": "scores"} if self.scores else {}
        return {**sizes, "activation_function": activation, **newer}


@dataclass(frozen=True)
class LayerNorm:
    """Layer norm (Ba et al. 2016) of the sentence embedding; its weights are in `path`."""

    dimension: int
    path: str = path_field()

    def width(self, before: int) -> int:
        return self.dimension

    def rules(self) -> list[Rule]:
        return norm("norm", "norm", (self.dimension,))

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "LayerNorm":
        settings.known(["dimension"])
        low, high = (1, limits.WIDTH) if given.width is None else (given.width, given.width)
        dimension = settings.integer("dimension", at_least=low, at_most=high)
        settings.finish()
        return LayerNorm(dimension, path)

    def to_json(self, width: int) -> dict[str, Any]:
        return {"dimension": self.dimension}


@dataclass(frozen=True)
class Normalize:
    """Scale the sentence embedding to length 1."""

    def width(self, before: int) -> int:
        return before

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "Normalize":
        settings.known(_ENDS)
        _check_ends(settings)
        settings.finish()
        return Normalize()

    def to_json(self, width: int) -> None:
        return None


WithWeights = WeightedLayerPooling | TrainedPooling | Dense | LayerNorm
Module = WithWeights | Pooling | Normalize
# Our name of a module after the encoder -> its class.
MODULES: dict[str, type[Module]] = {
    "weighted_layer_pooling": WeightedLayerPooling,
    "pooling": Pooling,
    "trained_pooling": TrainedPooling,
    "dense": Dense,
    "layer_norm": LayerNorm,
    "normalize": Normalize,
}
