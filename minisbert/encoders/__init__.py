"""The encoder families; `FAMILIES` is the only list of them.

A family is two files of one name: checkpoint/families/ has its Config and weight RULES, this folder its Encoder, which is
imported at its first use, since that imports JAX. A family from outside the package may be one module with all of these names.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from minisbert.checkpoint import families
from minisbert.checkpoint.convert import Rule
from minisbert.checkpoint.modules import EncoderModule


class Family:
    """How folders store a family, and how it is computed.

    Args:
        stored: its file in checkpoint/families/.
        parts: what differs from that file, such as PREFIX.
    """

    Config: Any
    RULES: list[Rule]
    PASSTHROUGH: list[str]
    PREFIX: str
    MODULE: EncoderModule

    def __init__(self, stored: ModuleType, **parts: Any):
        self.name = stored.__name__.rpartition(".")[2]
        vars(self).update({part: getattr(stored, part) for part in Family.__annotations__} | parts)

    @property
    def Encoder(self) -> Any:
        """The flax module, token ids -> token embeddings."""
        return import_module(f"minisbert.encoders.{self.name}").Encoder


_ROBERTA, _QWEN = Family(families.roberta), Family(families.qwen)
# `model_type` in config.json -> the family; a static model has no config.json (checkpoint/static_folder.py).
FAMILIES: dict[str, Any] = {
    "bert": Family(families.bert),
    "electra": Family(
        families.bert,
        PREFIX="electra.",
        PASSTHROUGH=["embeddings.position_ids", "discriminator_predictions.*", "generator_*", "classifier.*"],
    ),
    "ernie": Family(families.bert, PREFIX="ernie."),
    "mpnet": Family(families.mpnet),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(families.distilbert),
    "albert": Family(families.albert),
    "modernbert": Family(families.modernbert),
    "qwen3": _QWEN,
    "qwen2": _QWEN,
    "mistral": _QWEN,
    "eurobert": _QWEN,
    "gemma3_text": Family(families.gemma),
    "nomic_bert": Family(families.rotary_bert),
    "new": Family(families.rotary_bert, RULES=families.rotary_bert.GTE_RULES, PREFIX="new."),
    "gte": Family(families.rotary_bert, RULES=families.rotary_bert.GTE_RULES, PREFIX="gte."),
    "jina_embeddings_v3": Family(families.rotary_bert, RULES=families.rotary_bert.JINA_RULES, PREFIX="roberta."),
    "deberta-v2": Family(families.deberta),
    "t5": Family(families.t5),
    "mt5": Family(families.t5),
    "static": Family(families.static),
}
