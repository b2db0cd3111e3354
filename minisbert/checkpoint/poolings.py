"""The settings of the modules that pool: layers to token embeddings, token embeddings to one vector.

modules.py has the other modules and the table of all. A pooling from outside the package (register.py) is either a mode of
`Pooling`, if it has no weights, or a `TrainedPooling`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minisbert import limits
from minisbert.checkpoint.convert import Rule
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


class Given(NamedTuple):
    """What a module gets from those before it. None where config.json is wrong: the family complains about that."""

    width: int | None
    layers: int | None = None
    every_layer: bool = False  # config.json asks for the output of every layer
    scores: bool = False  # the module is the last of a reranker, whose output are the logits


def check_width(settings: Settings, width: int | None) -> None:
    """Complain about a width of the token embeddings that is not that of the encoder."""
    if width is not None:
        for key in WIDTHS:
            settings.integer(key, at_least=width, at_most=width, default=width)


def path_field() -> Any:
    """The module's folder within the model's: not part of what it computes."""
    return field(default="", compare=False, repr=False)


# Each module has four parts:
#     width(before)                  the width of its output, for an input of width `before`
#     rules()                        where its tensors go (convert.py); only of a module with weights
#     read(settings, given, path)    the module, from its settings, what it gets from those before it, and its folder
#     to_json(width)                 its config.json, or None where it has none; `width` is that of the token embeddings


@dataclass(frozen=True)
class WeightedLayerPooling:
    """Token embeddings as a weighted mean of layers `layer_start` to the last; layer 0 is the input of the first block."""

    layer_start: int
    num_hidden_layers: int
    path: str = path_field()

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
        settings.known([*WIDTHS, "layer_start", "num_hidden_layers"])
        check_width(settings, given.width)
        low, high = (0, limits.LAYERS) if given.layers is None else (given.layers, given.layers)
        layers = settings.integer("num_hidden_layers", at_least=low, at_most=high)
        start = settings.integer("layer_start", at_least=0, at_most=layers)
        settings.finish()
        if not given.every_layer:
            raise ModelFolderError(
                f"{settings.where}: averages layers, but 'output_hidden_states' in the transformer's config.json is not true, "
                "so that sentence-transformers silently skips this module. Expected true there; correct the file, or remove "
                "the module from the chain."
            )
        return WeightedLayerPooling(start, layers, path)

    def to_json(self, width: int) -> dict[str, Any]:
        sizes = {"layer_start": self.layer_start, "num_hidden_layers": self.num_hidden_layers}
        return {"word_embedding_dimension": width, **sizes}


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
        settings.known([*WIDTHS, "include_prompt", "pooling_mode", *POOLING_FLAGS])
        check_width(settings, given.width)
        include_prompt = settings.flag("include_prompt", default=True)
        if "pooling_mode" in settings.values:
            mode = settings.values["pooling_mode"]
            modes = [mode] if isinstance(mode, str) else mode
            if not isinstance(modes, list) or not modes or not all(name in POOLING_MODES for name in modes):
                settings.complain(
                    "pooling_mode", f"one or a list of {', '.join(POOLING_MODES)} (register_pooling adds others)"
                )
                modes = ["mean"]
        else:
            # Without any of the flags, the mean: the default of every version.
            silent = POOLING_FLAGS.keys().isdisjoint(settings.values)
            modes = []
            for flag, mode in POOLING_FLAGS.items():
                if settings.flag(flag, default=silent and mode == "mean"):
                    modes.append(mode)
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
    path: str = path_field()

    def width(self, before: int) -> int:
        return before

    def rules(self) -> list[Rule]:
        return TRAINED_RULES[self.name](self.dimension)

    @staticmethod
    def read(settings: Settings, given: Given, path: str) -> "TrainedPooling":
        settings.known([*WIDTHS, "include_prompt", "name"])
        check_width(settings, given.width)
        low, high = (1, limits.WIDTH) if given.width is None else (given.width, given.width)
        pooling = TrainedPooling(
            settings.text("name"),
            settings.integer("embedding_dimension", at_least=low, at_most=high),
            settings.flag("include_prompt", default=True),
            path,
        )
        if pooling.name not in TRAINED_RULES:
            settings.complain(
                "name", f"a pooling with weights that is registered (register_pooling): {[*TRAINED_RULES]}"
            )
        settings.finish()
        return pooling

    def to_json(self, width: int) -> dict[str, Any]:
        return {"name": self.name, "embedding_dimension": width, "include_prompt": self.include_prompt}
