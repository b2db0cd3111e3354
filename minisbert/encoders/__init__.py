"""The encoder families: one file each, with its Config, Encoder and weight RULES. This table is the only list of them."""

from types import ModuleType

from minisbert.encoders import albert, bert, distilbert, modernbert, mpnet, roberta

# config.json's `model_type` -> the family's file
FAMILIES: dict[str, ModuleType] = {
    "bert": bert,
    "mpnet": mpnet,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "distilbert": distilbert,
    "albert": albert,
    "modernbert": modernbert,
}
