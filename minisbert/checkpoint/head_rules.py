"""Where the tensors of a module after the encoder go; checkpoint/families/bert.py explains rules. modules.py computes."""

from collections.abc import Callable
from typing import Any

from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.modules import Dense, LayerNorm
from minisbert.checkpoint.poolings import WeightedLayerPooling


def maps_residual(settings: Dense) -> bool:
    """Whether a Dense adds its input through a matrix, since its widths differ."""
    return settings.residual and settings.in_features != settings.out_features


def _dense(settings: Dense) -> list[Rule]:
    widths = (settings.in_features, settings.out_features)
    rules = linear("linear", "linear", widths)[: 2 if settings.bias else 1]
    if maps_residual(settings):
        rules += linear("residual", "residual", widths)[:1]
    return rules


# Module with weights -> its tensors, from its settings
HEAD_RULES: dict[type, Callable[[Any], list[Rule]]] = {
    WeightedLayerPooling: lambda settings: [Rule("layer_weights", "weights", (settings.layers,))],
    Dense: _dense,
    LayerNorm: lambda settings: norm("norm", "norm", (settings.dimension,)),
}
