"""Training steps for bench.py: pairs in, one step of the siamese network, by minisbert and by sentence-transformers.

Both do what their own trainers do in a step: tokenize, dropout, the loss over the batch, the gradient clipped to norm 1, AdamW
with weight decay 0.01.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

# Pairs of a batch.
PAIRS = 32
MAX_LENGTH, RATE, WEIGHT_DECAY, CLIP = 128, 2e-5, 0.01, 1.0

# texts, two per pair, and for softmax one class per pair -> one step, and its loss
Step = Callable[..., float]
LOSS, CLASSES = "multiple_negatives_ranking", 3


def minisbert_step(folder: Path, *, dtype: str, loss: str = LOSS) -> Step:
    """minisbert's step, as training/trainer.py makes it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from minisbert.data.sampler import Batch
    from minisbert.inference.compiled import COMPUTE_DTYPES, enable_compilation_cache
    from minisbert.pretrained import load_pretrained
    from minisbert.sentence_model import define
    from minisbert.training.collate import train_batch
    from minisbert.training.losses import LOSSES, initial_softmax_head
    from minisbert.training.optimizer import adamw, schedule
    from minisbert.training.siamese import initial_state, make_update, packed_embed, siamese_loss, train_step

    enable_compilation_cache()
    model = load_pretrained(folder)
    max_length = min(MAX_LENGTH, model.max_positions)
    padding_id = model.folder.config.get("pad_token_id") or 0
    optimizer = adamw(schedule("constant", RATE, 0, 1), weight_decay=WEIGHT_DECAY, clip_norm=CLIP)
    head = (
        dict(initial_softmax_head(jax.random.key(0), model.model_config.dimension, CLASSES))
        if loss == "softmax"
        else {}
    )
    params = {"model": jax.tree.map(jnp.array, model.params), "head": head}
    model.params.clear()  # as `minisbert train` lets them go
    state = initial_state(params, optimizer, seed=0)
    definition, _ = define(model.model_config, COMPUTE_DTYPES[dtype])
    gradient = jax.value_and_grad(siamese_loss(packed_embed(definition), LOSSES[loss].function))
    compiled = jax.jit(partial(train_step, gradient=gradient, update=make_update(optimizer)), donate_argnums=0)

    def step(texts: Sequence[str], labels: Sequence[int] | None = None) -> float:
        nonlocal state
        labels_B = None if labels is None else np.asarray(labels)
        batch = Batch(0, 0, np.arange(len(texts) // 2), [list(texts[::2]), list(texts[1::2])], labels_B)
        arrays, _ = train_batch(batch, model.tokenizer, max_length=max_length, padding_id=padding_id)
        state, metrics = compiled(state, arrays)
        jax.block_until_ready(state.params)
        return float(metrics.loss)

    return step


def sentence_transformers_step(folder: Path, *, dtype: str, loss: str = LOSS) -> Step:
    """sentence-transformers' model and loss in a PyTorch loop; bfloat16 is autocast, as in its trainer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss, SoftmaxLoss

    model = SentenceTransformer(str(folder), local_files_only=True)
    model.max_seq_length = min(MAX_LENGTH, model.max_seq_length or MAX_LENGTH)
    model.train()
    if loss == "softmax":
        of_batch: torch.nn.Module = SoftmaxLoss(model, model.get_embedding_dimension() or 0, CLASSES)
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
