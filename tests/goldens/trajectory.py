"""Fifty training steps by sentence-transformers and by minisbert, on the same batches: the recipe of both.

    python tests/goldens/trajectory.py        writes trajectory-tiny-bert.json with the losses of sentence-transformers

Dropout off; AdamW (betas 0.9 and 0.999, epsilon 1e-8, decay 0.01 on matrices and tables), gradients clipped to norm 1,
five steps of warm-up, then linear to 0. The softmax head starts from minisbert's random one on both sides.
"""

import importlib.metadata
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from varied_sentences import PROSE, digest

HERE = Path(__file__).parent
GOLDEN = HERE / "trajectory-tiny-bert.json"
STEPS, WARMUP, BATCH, CLASSES, WEIGHT_DECAY = 50, 5, 8, 3, 0.01


@dataclass(frozen=True)
class Run:
    """A loss of our table, and what its batches hold."""

    loss: str
    texts: int
    labels: str | None = None


RUNS = {
    "softmax": Run("softmax", 2, "class"),
    "multiple negatives": Run("multiple_negatives_ranking", 2),
    "multiple negatives, two hard ones": Run("multiple_negatives_ranking", 4),
    "cosine": Run("cosine_similarity", 2, "score"),
    "margin-MSE": Run("margin_mse", 3, "margin"),
}


def batches(run: Run) -> list[tuple[list[list[str]], np.ndarray | None]]:
    """Columns of texts and labels for each step; no text twice in a batch."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(STEPS):
        chosen = rng.permutation(len(PROSE))[: BATCH * run.texts]
        columns = [[PROSE[i] for i in chosen[s :: run.texts]] for s in range(run.texts)]
        labels = {
            "class": rng.integers(0, CLASSES, BATCH).astype(np.int32),
            "score": rng.uniform(size=BATCH).astype(np.float32),
            "margin": rng.normal(size=BATCH).astype(np.float32),
        }
        made.append((columns, labels.get(run.labels or "")))
    return made


def head(dimension: int) -> dict[str, np.ndarray]:
    """The softmax head that both sides start from."""
    rng = np.random.default_rng(1)
    return {
        "bias": np.zeros(CLASSES, np.float32),
        "kernel": rng.normal(0, 0.02, (3 * dimension, CLASSES)).astype(np.float32),
    }


def theirs(folder: Path, run: Run, rate: float, save: Path | None = None) -> list[float]:
    """The loss of each step by sentence-transformers; its model after the last one goes to `save`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.eval()  # no dropout; gradients are taken all the same
    loss = {
        "softmax": partial(losses.SoftmaxLoss, model, model.get_embedding_dimension(), CLASSES),
        "multiple_negatives_ranking": partial(losses.MultipleNegativesRankingLoss, model),
        "cosine_similarity": partial(losses.CosineSimilarityLoss, model),
        "margin_mse": partial(losses.MarginMSELoss, model),
    }[run.loss]()
    if run.loss == "softmax":
        start = head(model.get_embedding_dimension())
        with torch.no_grad():
            loss.classifier.weight.copy_(torch.tensor(start["kernel"].T))
            loss.classifier.bias.copy_(torch.tensor(start["bias"]))
    named = list(loss.named_parameters())
    still = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    decaying = [p for name, p in named if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decaying, "weight_decay": WEIGHT_DECAY}, {"params": still, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8)
    falling = lambda step: step / WARMUP if step < WARMUP else (STEPS - step) / (STEPS - WARMUP)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, falling)
    values = []
    for columns, labels in batches(run):
        features = [model.preprocess(column) for column in columns]
        target = None if labels is None else torch.tensor(labels, dtype=torch.long if run.labels == "class" else None)
        optimizer.zero_grad()
        value = loss(features, target)
        value.backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        values.append(value.item())
    if save is not None:
        model.save(str(save))
    return values


def ours(folder: Path, run: Run, rate: float):
    """Our loss of each step, and the parameters after the last one."""
    import jax

    from minisbert.data.sampler import Batch
    from minisbert.pretrained import load_pretrained
    from minisbert.sentence_model import define
    from minisbert.training.collate import train_batch
    from minisbert.training.losses import LOSSES
    from minisbert.training.optimizer import adamw, schedule
    from minisbert.training.siamese import initial_state, make_update, packed_embed, siamese_loss, train_step

    model = load_pretrained(folder)
    optimizer = adamw(schedule("linear", rate, WARMUP, STEPS), weight_decay=WEIGHT_DECAY, clip_norm=1.0)
    params = {"model": jax.tree.map(jax.numpy.array, model.params), "head": {}}
    if run.loss == "softmax":
        params["head"] = jax.tree.map(jax.numpy.array, head(model.model_config.dimension))
    state = initial_state(params, optimizer, seed=0)
    definition, _ = define(model.model_config)
    gradient = jax.value_and_grad(siamese_loss(packed_embed(definition), LOSSES[run.loss].function))
    step = jax.jit(partial(train_step, gradient=gradient, update=make_update(optimizer), dropout=False))
    limit = min(model.folder.max_seq_length or model.max_positions, model.max_positions)
    padding_id, arrays = model.folder.config["pad_token_id"], []
    for columns, labels in batches(run):
        batch = Batch(dataset=0, epoch=0, rows_B=np.arange(BATCH), texts=columns, labels=labels)
        arrays.append(train_batch(batch, model.tokenizer, max_length=limit, padding_id=padding_id)[0])
    # One shape for all, compiled once.
    shape = np.max([one.rows.token_ids_PL.shape for one in arrays], axis=0).tolist()
    values = []
    for one in arrays:
        state, metrics = step(state, one.pad_to(*shape, padding_id))
        values.append(float(metrics.loss))
    return values, state.params["model"]


if __name__ == "__main__":
    tiny = HERE.parents[1] / "weights" / "tiny-bert"
    packages = ("sentence-transformers", "transformers", "torch")
    record = {
        "made_by": " ".join(f"{package}=={importlib.metadata.version(package)}" for package in packages),
        "texts": digest(PROSE),
        "rate": 1e-3,
        "losses": {name: theirs(tiny, run, 1e-3) for name, run in RUNS.items()},
    }
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
    print(GOLDEN)
