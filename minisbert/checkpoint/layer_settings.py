"""Settings of config.json that describe layers and that several families share: kinds of layers, rotary base angles.

transformers 5 writes `layer_types` and `rope_parameters`; older files have a rule for the layers and one key per base angle.
"""

from collections.abc import Callable
from typing import Any

from minisbert import limits
from minisbert.checkpoint.settings import Settings

FULL, LOCAL = "full_attention", "sliding_attention"
_BASE = (1, 1e12)  # bounds of a base angle


def layer_types(settings: Settings, layers: int, default: Callable[[int], str]) -> tuple[str, ...]:
    """Which layers attend to the whole text and which to a window: a list of names or, in the older form, a rule.

    Args:
        default: the kind of a layer by its number, where the file has no list.
    """
    types = settings.values.get("layer_types")
    if types is None:
        return tuple(map(default, range(layers)))
    if not isinstance(types, list) or len(types) != layers or not all(name in (FULL, LOCAL) for name in types):
        settings.complain("layer_types", f"a list of {layers} names (num_hidden_layers), each {FULL!r} or {LOCAL!r}")
        return (FULL,) * layers
    return tuple(types)


def rotary_base(settings: Settings, old_key: str, default: float, kind: str | None = None) -> float:
    """The base angle of rotary positions: in `rope_parameters`, or under its older key.

    Args:
        old_key: where files before transformers 5 have it.
        kind: of layers, where each kind has an angle of its own.
    """
    theta = settings.size(old_key, default, _BASE)
    found, place = settings.values.get("rope_parameters"), ""
    if kind is not None:
        place = f"{FULL!r} and {LOCAL!r}, each with "
        each = {} if found is None else found
        found = each.get(kind) if isinstance(each, dict) and each.keys() <= {FULL, LOCAL} else "not of both"
    expected = f"{place}a 'rope_theta' and the 'rope_type' 'default': nothing is stretched"
    return _rope(settings, "rope_parameters", found, theta, ["default"], expected)[1]


def stretched_base(settings: Settings, old_key: str, default: float, head_width: int) -> tuple[float, float]:
    """The base angle of rotary positions, and the factor by which every angle is divided (1: nothing is stretched).

    Both are in `rope_parameters`, or under the older keys `old_key` and `rope_scaling`. Of the ways to stretch positions,
    "linear" divides the angles (Chen et al. 2023); "ntk" (GTE's files) multiplies the base by its factor f and divides the
    angles by f^(2/H). Ways that depend on the length of a batch are refused.
    """
    theta, key = settings.size(old_key, default, _BASE), "rope_scaling"
    if settings.values.get("rope_parameters") is not None:
        settings.absent([key], "'rope_parameters' is there, and two could disagree")
        key = "rope_parameters"
    expected = "a 'rope_theta', a 'rope_type' of 'default', 'linear' or 'ntk', and for those two a 'factor'"
    found = settings.values.get(key)
    kind, theta, factor = _rope(settings, key, found, theta, ["default", "linear", "ntk"], expected)
    return (theta * factor, factor ** (2 / head_width)) if kind == "ntk" else (theta, factor)


def _rope(
    settings: Settings, key: str, found: Any, theta: float, kinds: list[str], expected: str
) -> tuple[str, float, float]:
    """The kind, base angle and factor in an object of rotary settings; null has none of them."""
    given = Settings(found if isinstance(found, dict) else {}, settings.where)
    older = {"type": "rope_type"} if "linear" in kinds else {}
    given.rename(older)
    kind = given.choice("rope_type", kinds, default="default")
    theta = given.size("rope_theta", theta, _BASE)
    factor = 1.0 if kind == "default" else given.size("factor", bounds=(1, 1e6))
    given.known(["rope_type", *older, "rope_theta", *(["factor"] if kind != "default" else [])])
    if given.complaints or not isinstance(found, dict | None):
        settings.complain(key, expected)
    return kind, theta, factor


def key_heads(settings: Settings, heads: int, default: int | None = None) -> int:
    """The number of key and value heads, which divides that of the query heads; null means as many."""
    if settings.values.get("num_key_value_heads", default) is None:
        return heads
    found: int = settings.size("num_key_value_heads", default)
    if heads % found:
        settings.complain("num_key_value_heads", f"a divisor of num_attention_heads {heads}")
    return found


def head_width(settings: Settings, width: int, heads: int, default: int | None = None) -> int:
    """The width of a head, even because rotary positions turn pairs; null or missing means width / heads."""
    if settings.values.get("head_dim", default) is not None:
        found: int = settings.size("head_dim", default, (2, limits.WIDTH))
        if found % 2:
            settings.complain("head_dim", "an even number, because rotary positions turn pairs of numbers")
        return found
    if width % (2 * heads):
        settings.complain("num_attention_heads", f"a divisor of hidden_size {width}, so that heads are of even width")
    return max(2, width // heads)
