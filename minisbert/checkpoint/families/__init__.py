"""The encoder families; `FAMILIES` is the only list of them.

A family is two files of one name, each imported at its first use: this folder has how a folder of a model stores it, its Config
and weight RULES (NumPy and files only); encoders/ has its Encoder, which imports JAX. A family from outside the package may be
one module with all of these names.
"""

from importlib import import_module
from typing import Any


class Family:
    """How folders store a family, and how it is computed: Config, RULES, PASSTHROUGH, PREFIX and Encoder.

    Args:
        name: of its two files.
        rules: the name of its weight rules there.
        parts: what differs from those files, such as PREFIX.
    """

    def __init__(self, name: str, *, rules: str = "RULES", **parts: Any):
        self.name, self.rules = name, rules
        vars(self).update(parts)

    def __getattr__(self, part: str) -> Any:
        if part.startswith("_"):  # asked by copy and pickle, of an object that has no name yet
            raise AttributeError(part)
        if part == "Encoder":
            return import_module(f"minisbert.encoders.{self.name}").Encoder
        return getattr(
            import_module(f"minisbert.checkpoint.families.{self.name}"), self.rules if part == "RULES" else part
        )


_ROBERTA, _QWEN = Family("roberta"), Family("qwen")
# `model_type` in config.json -> the family; a static model has no config.json (checkpoint/static_folder.py).
FAMILIES: dict[str, Any] = {
    "bert": Family("bert"),
    "electra": Family(
        "bert",
        PREFIX="electra.",
        PASSTHROUGH=[
            *("embeddings.position_ids", "discriminator_predictions.*", "generator_*", "sequence_summary.*"),
            *("classifier.*", "qa_outputs.*"),
        ],
    ),
    "ernie": Family("bert", PREFIX="ernie."),
    "mpnet": Family("mpnet"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family("distilbert"),
    "albert": Family("albert"),
    "modernbert": Family("modernbert"),
    "qwen3": _QWEN,
    "qwen2": _QWEN,
    "mistral": _QWEN,
    # "dense" is of its head for classes; in another model it could be a projection, which must not be left out.
    "eurobert": Family("qwen", PASSTHROUGH=["lm_head.*", "score.*", "classifier.*", "dense.*", "qa_outputs.*"]),
    "gemma3_text": Family("gemma"),
    "nomic_bert": Family("rotary_bert"),
    "new": Family("rotary_bert", rules="GTE_RULES", PREFIX="new."),
    "gte": Family("rotary_bert", rules="GTE_RULES", PREFIX="gte."),
    "jina_embeddings_v3": Family("rotary_bert", rules="JINA_RULES", PREFIX="roberta."),
    "deberta-v2": Family("deberta"),
    "t5": Family("t5"),
    "mt5": Family("t5"),
    "static": Family("static"),
}
