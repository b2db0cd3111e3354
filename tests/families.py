"""Every encoder family: its tiny checkpoint `weights/tiny-<model_type>` and its NumPy twin. Adding a family adds a row."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx

from minisbert.reference.deberta import deberta
from minisbert.reference.encoder import bert, mpnet, roberta
from minisbert.reference.grouped import gemma, qwen
from minisbert.reference.modernbert import modernbert
from minisbert.reference.rotary_bert import rotary_bert
from minisbert.reference.t5 import t5

WEIGHTS = Path(__file__).parents[1] / "weights"

# config.json's `model_type` -> the twin
TWINS: dict[str, Callable] = {
    "bert": bert,
    "mpnet": mpnet,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "distilbert": bert,
    "albert": bert,
    "modernbert": modernbert,
    "qwen3": qwen,
    "gemma3_text": gemma,
    "nomic_bert": rotary_bert,
    "gte": rotary_bert,
    "t5": t5,
    "deberta-v2": deberta,
}
# One family for each file of minisbert/encoders: for what runs the encoder and depends on nothing else of a family.
ENCODERS = ["bert", "mpnet", "modernbert", "qwen3", "gemma3_text", "gte", "t5", "deberta-v2"]
# Other names of one of these, read by the same file; of XLM-R there is a tiny checkpoint.
SAME_CODE = {
    "electra": "bert",
    "ernie": "bert",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "qwen2": "qwen3",
    "mistral": "qwen3",
    "eurobert": "qwen3",
    "new": "gte",
    "jina_embeddings_v3": "nomic_bert",
    "mt5": "t5",
}


def tiny(model_type: str) -> Path:
    """The family's tiny checkpoint."""
    return WEIGHTS / f"tiny-{model_type}"


def random_encoder(code: ModuleType, config: Any) -> tuple[Callable, dict[Any, Any]]:
    """An encoder of a family with random weights, compiled, and those weights, nested, as NumPy."""
    _, state = nnx.split(nnx.eval_shape(lambda: code.Encoder(config, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype) / 5, nnx.to_pure_dict(state))
    return compiled(code, config, params), params


def compiled(code: ModuleType, config: Any, params: dict[Any, Any]) -> Callable:
    """An encoder with these weights, as a compiled function that gives NumPy."""
    definition, _ = nnx.split(nnx.eval_shape(lambda: code.Encoder(config, rngs=nnx.Rngs(0))))
    run = jax.jit(lambda params, *parts: nnx.merge(definition, params)(*parts)[-1])
    return lambda *parts: np.asarray(run(params, *parts))
