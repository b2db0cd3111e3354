"""The encoder families, one file each with its Config, Encoder and weight RULES; this table is the only list of them."""

from types import ModuleType

from minisbert.encoders import albert, bert, distilbert, gemma, modernbert, mpnet, qwen, roberta, static


def _renamed(family: ModuleType, **parts: object) -> ModuleType:
    """The same family, but for the names around its tensors."""
    other = ModuleType(family.__name__, family.__doc__)
    vars(other).update(vars(family), **parts)
    return other


# `model_type` in config.json -> the family's file; a static model has no config.json (checkpoint/static_folder.py)
FAMILIES: dict[str, ModuleType] = {
    "bert": bert,
    "electra": _renamed(
        bert,
        PREFIX="electra.",
        PASSTHROUGH=["embeddings.position_ids", "discriminator_predictions.*", "generator_*", "classifier.*"],
    ),
    "ernie": _renamed(bert, PREFIX="ernie."),
    "mpnet": mpnet,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "distilbert": distilbert,
    "albert": albert,
    "modernbert": modernbert,
    "qwen3": qwen,
    "qwen2": qwen,
    "mistral": qwen,
    "eurobert": qwen,
    "gemma3_text": gemma,
    "static": static,
}
