"""The modules of a sentence-transformers folder after the encoder, and the settings of each.

    WeightedLayerPooling            all layers of a transformer -> token embeddings
    Pooling, TrainedPooling         token embeddings -> sentence embedding
    Dense, LayerNorm, Normalize     sentence embedding -> sentence embedding; any number, in any order

Each is a dataclass with these methods; a pooling from outside the package is a mode of `Pooling` or, with weights, a
`TrainedPooling`.

    width(before)                  the width of its output, for an input of width `before`
    rules()                        where its tensors go (convert.py); only of a module with weights
    read(settings, given, path)    the module, from its settings, what it gets from those before it, and its folder
    to_json(width)                 its config.json, or None where it has none; `width` is that of the token embeddings
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minisbert.checkpoint.convert import Rule, linear, matrix, norm
from minisbert.checkpoint.kinds import DENSE_ACTIVATIONS
from minisbert.checkpoint.settings import Settings
from minisbert.errors import ModelFolderError

# Pooling with weights -> where its tensors go, by its width; register.py adds to it.
TRAINED_RULES: dict[str, Callable[[int], list[Rule]]] = {}
# Old boolean -> pooling mode, in the order in which several modes are concatenated.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = list(POOLING_FLAGS.values())  # register.py adds to them
# The width of the token embeddings: its older and its newer name.
WIDTHS = ("word_embedding_dimension", "embedding_dimension")


_PATH: Any = field(default="", compare=False, repr=False)  # of a module with weights: its folder in the model's


class Given(NamedTuple):
    """What a module gets from those before it."""

    width: int  # of its input
    layers: int  # of the encoder
    every_layer: bool  # config.json asks for the output of every layer
    scores: bool  # the module is the last of a reranker, whose output are the logits


def _given(settings: Settings, key: str, given: int, of: str = "the width of the module before") -> None:
    """A whole number that those before the module have set."""
    if type(found := settings.values.get(key)) is not int or found != given:  # 32.0 == 32, but a width is whole
        settings.complain(key, f"{given}, {of}")


def _check_keys(settings: Settings, given: Given, *keys: str) -> None:
    """Of a module on token embeddings: no other keys, and under either name of the width that of the encoder."""
    settings.known([*WIDTHS, *keys])
    for key in WIDTHS:
        if key in settings.values:
            _given(settings, key, given.width)


@dataclass(frozen=True)
class WeightedLayerPooling:
    """Token embeddings as a weighted mean of layers `layer_start` to the last; layer 0 is the input of the first block."""

    layer_start: int
    num_hidden_layers: int
    path: str = _PATH

    @property
    def layers(self) -> int:
        """How many layers are averaged, with one weight each."""
        return self.num_hidden_layers + 1 - self.layer_start

    def width(self, before: int) -> int:
        return before

    def rules(self) -> list[Rule]:
        return [Rule("layer_weights", "weights", (self.layers,))]

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "WeightedLayerPooling":
        _check_keys(settings, given, "layer_start", "num_hidden_layers")
        _given(settings, "num_hidden_layers", given.layers, "those of the encoder")
        start = settings.size("layer_start", bounds=(0, given.layers))
        settings.finish()
        if not given.every_layer:
            raise ModelFolderError(
                f"{settings.where}: averages layers, but 'output_hidden_states' in the transformer's config.json is not true, "
                "so sentence-transformers skips this module. Expected true there; correct the file, or remove the module."
            )
        return WeightedLayerPooling(start, given.layers, path)

    def to_json(self, width: int) -> dict[str, Any]:
        layers = {"layer_start": self.layer_start, "num_hidden_layers": self.num_hidden_layers}
        return {"word_embedding_dimension": width, **layers}


@dataclass(frozen=True)
class Pooling:
    """Token embeddings -> one vector; several modes are concatenated in the order given."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", tuple(self.modes))  # a list has no hash

    def width(self, before: int) -> int:
        return before * len(self.modes)

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "Pooling":
        _check_keys(settings, given, "include_prompt", "pooling_mode", *POOLING_FLAGS)
        include_prompt = settings.flag("include_prompt", default=True)
        if "pooling_mode" in settings.values:
            mode = settings.values["pooling_mode"]
            modes = [mode] if isinstance(mode, str) else mode
            if not isinstance(modes, list) or not 1 <= len(modes) <= 100 or not all(x in POOLING_MODES for x in modes):
                known = ", ".join(POOLING_MODES)
                settings.complain("pooling_mode", f"one or up to 100 of {known} (register_pooling adds others)")
                modes = ["mean"]
        else:
            # Without any of the flags, the mean: the default of every version.
            usual = "mean" if POOLING_FLAGS.keys().isdisjoint(settings.values) else ""
            modes = [mode for flag, mode in POOLING_FLAGS.items() if settings.flag(flag, default=mode == usual)]
            if not modes:
                settings.complain("pooling_mode_mean_tokens", "at least one of the pooling_mode_* settings true")
        settings.finish()
        return Pooling(tuple(modes), include_prompt)

    def to_json(self, width: int) -> dict[str, Any]:
        prompt = {"include_prompt": self.include_prompt}
        if self.modes != tuple(mode for mode in POOLING_FLAGS.values() if mode in self.modes):
            # Only the newer form can have the modes in another order, and other modes.
            return {"embedding_dimension": width, "pooling_mode": list(self.modes), **prompt}
        flags = {flag: mode in self.modes for flag, mode in POOLING_FLAGS.items()}
        return {"word_embedding_dimension": width, **flags, **prompt}


@dataclass(frozen=True)
class TrainedPooling:
    """A pooling with weights that was registered under a name; its weights are in `path`. Only minisbert reads it."""

    name: str
    dimension: int
    include_prompt: bool = True
    path: str = _PATH

    def width(self, before: int) -> int:
        return before

    def rules(self) -> list[Rule]:
        return TRAINED_RULES[self.name](self.dimension)

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "TrainedPooling":
        _check_keys(settings, given, "include_prompt", "name")
        why = "a pooling with weights; import the code that adds it by register_pooling, then load the model"
        name = settings.choice("name", TRAINED_RULES, why=why)
        dimension = settings.size("embedding_dimension")
        include_prompt = settings.flag("include_prompt", default=True)
        settings.finish()
        return TrainedPooling(name, dimension, include_prompt, path)

    def to_json(self, width: int) -> dict[str, Any]:
        return {"name": self.name, "embedding_dimension": width, "include_prompt": self.include_prompt}


def _check_ends(settings: Settings, *keys: str, scores: bool = False) -> None:
    """Of a module on sentence embeddings: no other keys, and what it takes and returns."""
    settings.known(["module_input_name", "module_output_name", *keys])
    for key in ("module_input_name", "module_output_name"):
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
    path: str = _PATH

    def width(self, before: int) -> int:
        return self.out_features

    @property
    def maps_residual(self) -> bool:
        """The input is added through a matrix, since the widths differ."""
        return self.residual and self.in_features != self.out_features

    def rules(self) -> list[Rule]:
        widths = (self.in_features, self.out_features)
        residual = [matrix("residual", "residual", widths)] if self.maps_residual else []
        return [*linear("linear", "linear", widths)[: 2 if self.bias else 1], *residual]

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "Dense":
        keys = ("in_features", "out_features", "bias", "activation_function", "use_residual")
        _check_ends(settings, *keys, scores=given.scores)
        activation = settings.choice(
            "activation_function", DENSE_ACTIVATIONS, default="torch.nn.modules.activation.Tanh", why="never imported"
        )
        _given(settings, "in_features", given.width)
        dense = Dense(
            in_features=given.width,
            out_features=settings.size("out_features"),
            bias=settings.flag("bias", default=True),
            activation=DENSE_ACTIVATIONS[activation],
            residual=settings.flag("use_residual", default=False),
            scores=given.scores,
            path=path,
        )
        settings.finish()
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
    path: str = _PATH

    def width(self, before: int) -> int:
        return self.dimension

    def rules(self) -> list[Rule]:
        return norm("norm", "norm", (self.dimension,))

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "LayerNorm":
        settings.known(["dimension"])
        _given(settings, "dimension", given.width)
        settings.finish()
        return LayerNorm(given.width, path)

    def to_json(self, width: int) -> dict[str, Any]:
        return {"dimension": self.dimension}


@dataclass(frozen=True)
class Normalize:
    """Scale the sentence embedding to length 1."""

    def width(self, before: int) -> int:
        return before

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "Normalize":
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
