"""How a folder stores each family: its settings (Config), and where its tensors go (RULES). NumPy and files only."""

from minisbert.checkpoint.families import (  # noqa: F401
    albert,
    bert,
    deberta,
    distilbert,
    gemma,
    modernbert,
    mpnet,
    qwen,
    roberta,
    rotary_bert,
    static,
    t5,
)
