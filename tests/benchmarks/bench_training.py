"""Training steps for bench.py: pairs in, one step of the siamese network, by minisbert and by sentence-transformers.

Both do what their own trainers do in a step: tokenize, dropout, the loss over the batch, the gradient clipped to norm 1, AdamW
with weight decay 0.01.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Pairs of a batch.
PAIRS = 32
MAX_LENGTH, RATE, WEIGHT_DECAY, CLIP = 128, 2e-5, 0.01, 1.0
# The learning rate is constant; a run has fewer.
MOST_STEPS = 1_000_000

# texts, two per pair, and for softmax one class per pair -> one step, and its loss
Step = Callable[..., float]
LOSS, CLASSES = "multiple_negatives_ranking", 3


def minisbert_step(folder: Path, *, dtype: str, loss: str = LOSS, chunk_size: int | None = None) -> Step:
    """minisbert's step: the program that training/trainer.py compiles, with GradCache if there is a chunk size."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from minisbert.data.sampler import Batch
    from minisbert.inference.compiled import enable_compilation_cache
    from minisbert.pretrained import load_pretrained
    from minisbert.training.collate import train_batch
    from minisbert.training.config import TrainConfig
    from minisbert.training.optimizer import optimizer_for
    from minisbert.training.step_cache import compiled_step, step_settings
    from minisbert.training.task import SIAMESE, Part

    enable_compilation_cache()
    model = load_pretrained(folder)
    max_length = min(MAX_LENGTH, model.max_positions)
    padding_id = model.folder.config.get("pad_token_id") or 0
    rates: dict[str, Any] = {"learning_rate": RATE, "decay": "constant", "warmup": 0.0, "weight_decay": WEIGHT_DECAY}
    config = TrainConfig(
        (), loss=loss, compute_dtype=dtype, chunk_size=chunk_size, clip_norm=CLIP, max_steps=MOST_STEPS, **rates
    )
    _, recipe, numbers, _ = optimizer_for(config, MOST_STEPS)
    params = jax.tree.map(jnp.array, model.params)
    model.params.clear()  # as `minisbert train` lets them go
    part = Part(None, config, SIAMESE.loss(config), CLASSES)
    state = SIAMESE.initial_state(config, model.model_config, recipe(numbers), [part], params)
    compiled = compiled_step(step_settings(SIAMESE, model.model_config, config, recipe))

    def step(texts: Sequence[str], labels: Sequence[int] | None = None) -> float:
        nonlocal state
        labels_B = None if labels is None else np.asarray(labels)
        batch = Batch(0, 0, np.arange(len(texts) // 2), [list(texts[::2]), list(texts[1::2])], labels_B)
        arrays, _ = train_batch(batch, model.tokenizer, max_length=max_length, padding_id=padding_id)
        state, metrics = compiled(state, arrays, numbers)
        jax.block_until_ready(state.params)
        return float(metrics.loss)

    return step


def sentence_transformers_step(folder: Path, *, dtype: str, loss: str = LOSS, chunk_size: int | None = None) -> Step:
    """sentence-transformers' model and loss in a PyTorch loop; bfloat16 is autocast, as in its trainer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
        SoftmaxLoss,
    )

    model = SentenceTransformer(str(folder), local_files_only=True)
    model.max_seq_length = min(MAX_LENGTH, model.max_seq_length or MAX_LENGTH)
    model.train()
    if loss == "softmax":
        of_batch: torch.nn.Module = SoftmaxLoss(model, model.get_embedding_dimension() or 0, CLASSES)
    elif chunk_size is not None:
        of_batch = CachedMultipleNegativesRankingLoss(model, mini_batch_size=chunk_size)
    else:
        of_batch = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(of_batch.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)

    def step(texts: Sequence[str], labels: Sequence[int] | None = None) -> float:
        features = [model.preprocess(list(column)) for column in (texts[::2], texts[1::2])]
        features = [
            {name: value.to(model.device) if hasattr(value, "to") else value for name, value in one.items()}
            for one in features
        ]
        optimizer.zero_grad()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            value = of_batch(
                features, None if labels is None else torch.tensor(list(map(int, labels)), device=model.device)
            )
        value.backward()
        torch.nn.utils.clip_grad_norm_(of_batch.parameters(), CLIP)
        optimizer.step()
        return value.item()  # waits for the device

    return step
