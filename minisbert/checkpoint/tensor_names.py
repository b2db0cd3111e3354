"""One name for each tensor of a checkpoint, whatever prefix or older name a file gives it; tensors that have two names."""

import fnmatch
from collections.abc import Sequence

# TensorFlow's names for the two parts of a layer norm, still found in the oldest checkpoints; prefixes of remote code.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_OLD_PREFIXES = {"nomic_bert.": "bert.", "gte.": "new."}
# A second name of the same tensor, in a file next to the first or in its place: T5's token table.
TIED = {"encoder.embed_tokens.weight": "shared.weight"}


def canonical_names(names: Sequence[str], prefix: str, passthrough: Sequence[str]) -> dict[str, list[str]]:
    """A tensor's canonical name -> its names in the file; more than one is a doubled tensor.

    Example:
        >>> canonical_names(["bert.embeddings.LayerNorm.gamma"], "bert.", [])
        {'embeddings.LayerNorm.weight': ['bert.embeddings.LayerNorm.gamma']}
    """
    canonical: dict[str, list[str]] = {}
    for name in names:
        short = name.removeprefix(prefix).removeprefix(_OLD_PREFIXES.get(prefix, ""))
        for old, new in _OLD_NAMES.items():
            if short.endswith(old) and not matches(name, passthrough):
                short = short.removesuffix(old) + new
        if short in TIED and not any(other.endswith(TIED[short]) for other in names):
            short = TIED[short]
        canonical.setdefault(short, []).append(name)
    return canonical


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns, in which * is any text."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
