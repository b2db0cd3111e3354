"""SBERT's table 1 on real text, with a small BERT that is pretrained here, in minutes on two idle cores.

    python notebooks/table_1.py DATA                                                   writes notebooks/table_1.json
    python notebooks/table_1.py DATA --steps 8 --pair-steps 4 --runs runs/try --out try.json        a try

Reimers & Gurevych 2019, table 1, compares averaged word vectors, the vectors of a pretrained BERT (their mean, or [CLS]), and
BERT after training on NLI. Here BERT is small and pretrained on little text, so the figures are others: compare the order.

    texts      all sentences of the training files, without those of STS-B's development set
    pretrain   masked words (Devlin et al. 2019, section 3.1), from random weights
    finetune   the softmax loss or multiple negatives, from the pretrained and from the random weights
    score      Spearman on STS-B's development set, with a bootstrap over pairs; cosines of NLI pairs by class

What is trained is in `--runs`; started again, the program resumes. DATA has nli/ and sts/ with gzipped tsv files; `FILES`
lists them. Set MINISBERT_GLOVE as in notebook 07 to score GloVe too.
"""

import argparse
import gzip
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from minisbert import SentenceEncoder, TrainConfig, train
from minisbert.checkpoint.convert import Converted
from minisbert.evaluation.sts import evaluate_sts, read_sts
from minisbert.evaluation.word_vectors import AveragedWords
from minisbert.sentence_model import define, initial_params
from minisbert.similarity import pairwise_cosine
from minisbert.training.optimizer import adamw, schedule

FILES = ("nli/snli_train_20k", "nli/mnli_train_10k", "nli/snli_cad_train", "sts/stsb_train", "sts/sick_train")
NLI = FILES[:2]
SIZE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
LENGTH, BATCH = 32, 64  # tokens per sentence at most, sentences per step
MASKED = 4  # places per sentence that are predicted: 15 % of the average 13 tokens are two, of 32 they are five
RARE = 3  # a word seen less often is never predicted
CLASSES = ("entailment", "neutral", "contradiction")


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a gzipped tsv file."""
    header, *lines = gzip.decompress(file.read_bytes()).decode().rstrip("\n").split("\n")
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def texts(data: Path) -> list[str]:
    """All different sentences of the files, in order; none that the development set has."""
    dev = {row[side] for row in read(data / "sts/stsb_dev.tsv.gz") for side in ("sentence1", "sentence2")}
    rows = (row for file in FILES for row in read(data / f"{file}.tsv.gz"))
    found = dict.fromkeys(text for row in rows for text in (row["sentence1"], row["sentence2"]))
    return [text for text in found if text not in dev]


def random_bert() -> SentenceEncoder:
    """A small BERT with random weights and the vocabulary of all-MiniLM-L6-v2."""
    model = SentenceEncoder("all-MiniLM-L6-v2").pretrained
    config = replace(
        model.model_config, encoder=replace(model.model_config.encoder, **SIZE), modules=model.model_config.modules[:1]
    )
    folder = replace(model.folder, config={**model.folder.config, **SIZE})
    return SentenceEncoder(
        replace(model, model_config=config, folder=folder, params=initial_params(config, 0), original=Converted({}))
    )


# --- masked words --------------------------------------------------------------------------------------------------------


def token_rows(encoder: SentenceEncoder, sentences: list[str]) -> np.ndarray:
    """token_ids_BL, padded with 0."""
    rows_BL = np.zeros((len(sentences), LENGTH), np.int32)
    for row_L, ids in zip(rows_BL, encoder.tokenizer.tokenize(sentences, max_length=LENGTH).ids, strict=True):
        row_L[: len(ids)] = ids
    return rows_BL


def masked(
    token_ids_BL: np.ndarray, common_V: np.ndarray, mask_id: int, random: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """seen_BL, what BERT reads; place_BM, where it predicts; word_BM, what was there; weight_BM, 0 for places too many.

    15 % of the words, at most `MASKED`; of these 80 % are masked, 10 % another word, 10 % as they were.
    """
    may_BL = np.isin(token_ids_BL, common_V)
    place_BM = np.where(may_BL, random.random(may_BL.shape), -1).argsort(axis=1)[:, ::-1][:, :MASKED]
    wanted_B = np.clip(np.round(0.15 * (token_ids_BL > 0).sum(axis=1)), 1, MASKED)
    weight_BM = np.take_along_axis(may_BL, place_BM, axis=1) & (np.arange(MASKED) < wanted_B[:, None])
    word_BM = np.take_along_axis(token_ids_BL, place_BM, axis=1)
    dice_BM = random.random(word_BM.shape)
    other_BM = np.where(
        dice_BM < 0.8, mask_id, np.where(dice_BM < 0.9, random.choice(common_V, word_BM.shape), word_BM)
    )
    seen_BL = token_ids_BL.copy()
    np.put_along_axis(seen_BL, place_BM, np.where(weight_BM, other_BM, word_BM), axis=1)
    return (
        seen_BL,
        place_BM.astype(np.int32),
        np.searchsorted(common_V, word_BM).astype(np.int32),
        weight_BM.astype(np.float32),
    )


class WordHead(nnx.Module):
    """BERT's head for masked words: a linear map, GELU, layer norm; then products with the rows of the token table."""

    def __init__(self, width: int, words: int, rngs: nnx.Rngs):
        self.transform = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(words))

    def __call__(self, hidden_BMD: jax.Array, table_VD: jax.Array) -> jax.Array:
        hidden_BMD = self.norm(jax.nn.gelu(self.transform(hidden_BMD), approximate=False))
        return hidden_BMD @ table_VD.T + self.bias[...]


def pretrain(encoder: SentenceEncoder, sentences: list[str], steps: int, dev: object) -> tuple[SentenceEncoder, dict]:
    """The encoder after `steps` of masked words, and its curves: loss, and STS of the mean and of [CLS]."""
    rows_BL = token_rows(encoder, sentences)
    ids, counts = np.unique(rows_BL, return_counts=True)
    special = [encoder.tokenizer.backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    common_V = np.setdiff1d(ids[counts >= RARE], special)
    model_definition, _ = define(encoder.model_config)
    head_definition, head_state = nnx.split(WordHead(encoder.model_config.dimension, len(common_V), nnx.Rngs(0)))
    params = {"model": encoder.params, "head": nnx.to_pure_dict(head_state)}
    optimizer = adamw(schedule("linear", 1e-3, steps // 10, steps), weight_decay=0.01, clip_norm=1.0)

    def loss(params, seen_BL, place_BM, word_BM, weight_BM):
        model = nnx.merge(model_definition, params["model"])
        hidden_BLD = model.tokens(seen_BL, seen_BL > 0)
        hidden_BMD = jnp.take_along_axis(hidden_BLD, place_BM[:, :, None], axis=1)
        table_VD = params["model"]["encoder"]["token_embedding"]["embedding"][common_V]
        logits_BMV = nnx.merge(head_definition, params["head"])(hidden_BMD, table_VD)
        each_BM = optax.softmax_cross_entropy_with_integer_labels(logits_BMV, word_BM)
        return (each_BM * weight_BM).sum() / weight_BM.sum()

    def step(carry, batch):
        params, moments = carry
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    run = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches))
    random, carry, every = np.random.default_rng(0), (params, optimizer.init(params)), max(1, steps // 8)
    curve = {"step": [0], "loss": [], "mean": [sts(encoder, dev)], "cls": [sts(encoder.with_pooling("cls"), dev)]}
    for done in range(every, steps + 1, every):
        drawn = [random.choice(len(rows_BL), BATCH, replace=False) for _ in range(every)]
        batches = [masked(rows_BL[rows], common_V, special[-1], random) for rows in drawn]
        carry, losses_S = run(carry, tuple(map(np.stack, zip(*batches, strict=True))))
        encoder = encoder.with_params(carry[0]["model"])
        curve["step"].append(done)
        curve["loss"] += np.asarray(losses_S).round(4).tolist()
        curve["mean"].append(sts(encoder, dev))
        curve["cls"].append(sts(encoder.with_pooling("cls"), dev))
        print(
            f"  masked words, step {done}: loss {np.mean(losses_S[-20:]):.3f}, STS {curve['mean'][-1]:.1f}", flush=True
        )
    return encoder, {**curve, "words": len(common_V), "tokens": int((rows_BL > 0).sum())}


# --- pairs ---------------------------------------------------------------------------------------------------------------


def finetune(encoder: SentenceEncoder, config: TrainConfig, folder: Path, dev: object) -> tuple[SentenceEncoder, dict]:
    """The trained encoder and its curves."""
    trained = train(encoder, config, folder, score=lambda model: sts(model, dev) / 100, show_progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = [(line["step"], 100 * line["score"]) for line in lines if "score" in line]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line][:: max(1, len(lines) // 100)]
    curve = {"step": [0, *(s for s, _ in scores)], "sts": [sts(encoder, dev), *(round(v, 2) for _, v in scores)]}
    print(f"  {config.loss}: STS {curve['sts'][0]:.1f} -> {curve['sts'][-1]:.1f}", flush=True)
    return trained, {**curve, "loss_step": [s for s, _ in losses], "loss": [round(v, 4) for _, v in losses]}


def write_pairs(data: Path, folder: Path) -> tuple[Path, Path]:
    """The NLI pairs with their class, and the entailed ones as pairs, as files to train on."""
    rows = [row for file in NLI for row in read(data / f"{file}.tsv.gz")]
    nli, pairs = folder / "nli.tsv", folder / "pairs.tsv"
    for path, columns, chosen in (
        (nli, ("label", "sentence1", "sentence2"), rows),
        (pairs, ("anchor", "positive"), [row for row in rows if row["label"] == "entailment"]),
    ):
        lines = [
            "\t".join(row[{"anchor": "sentence1", "positive": "sentence2"}.get(c, c)] for c in columns)
            for row in chosen
        ]
        path.write_text("\n".join(["\t".join(columns), *lines]) + "\n", encoding="utf-8")
    return nli, pairs


# --- scores --------------------------------------------------------------------------------------------------------------


def sts(encoder: object, dev: object) -> float:
    """Spearman x 100."""
    return round(100 * evaluate_sts(encoder, dev, resamples=0, on_truncate="ignore").score().spearman.value, 2)


def interval(encoder: object, dev: object) -> list[float]:
    """Spearman x 100, with its 95 % interval."""
    found = evaluate_sts(encoder, dev, on_truncate="ignore").score().spearman
    return [round(100 * x, 2) for x in (found.value, found.low, found.high)]


def class_cosines(encoder: SentenceEncoder, rows: list[dict[str, str]]) -> dict[str, float]:
    """The mean cosine of premise and hypothesis, by class."""
    u_BD, v_BD = (
        encoder.encode([row[side] for row in rows], on_truncate="ignore") for side in ("sentence1", "sentence2")
    )
    cosine_B, label_B = pairwise_cosine(u_BD, v_BD), np.array([row["label"] for row in rows])
    return {name: round(float(cosine_B[label_B == name].mean()), 4) for name in CLASSES}


def accuracy_of_a_head(encoder: SentenceEncoder, learn: list[dict[str, str]], rows: list[dict[str, str]]) -> float:
    """Accuracy on `rows` of a new linear head on (u, v, |u - v|), trained while the encoder stays as it is."""

    def features(some: list[dict[str, str]]) -> tuple[jax.Array, np.ndarray]:
        u_BD, v_BD = (
            encoder.encode([row[side] for row in some], on_truncate="ignore") for side in ("sentence1", "sentence2")
        )
        x_BF = np.concatenate([u_BD, v_BD, abs(u_BD - v_BD)], axis=1)
        return x_BF, np.array([CLASSES.index(row["label"]) for row in some])

    (x_BF, class_B), (test_BF, test_B) = features(learn), features(rows)
    mean_F, deviation_F = x_BF.mean(axis=0), x_BF.std(axis=0) + 1e-6
    x_BF, test_BF = (x_BF - mean_F) / deviation_F, (test_BF - mean_F) / deviation_F
    optimizer = optax.adam(0.02)

    def step(carry, _):
        kernel_FC, moments = carry
        gradient = jax.grad(
            lambda k_FC: (
                optax.softmax_cross_entropy_with_integer_labels(x_BF @ k_FC, class_B).mean() + 1e-3 * (k_FC**2).sum()
            )
        )(kernel_FC)
        updates, moments = optimizer.update(gradient, moments)
        return (kernel_FC + updates, moments), None

    kernel_FC = jnp.zeros((x_BF.shape[1], 3))
    (kernel_FC, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=150))(
        (kernel_FC, optimizer.init(kernel_FC))
    )
    return round(float(((test_BF @ kernel_FC).argmax(axis=1) == test_B).mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--steps", type=int, default=900, help="of masked words")
    parser.add_argument("--pair-steps", type=int, default=400, help="of each training on pairs, at most")
    parser.add_argument("--runs", type=Path, default=Path("runs/table-1"))
    asked = parser.parse_args()
    started, runs = time.perf_counter(), asked.runs
    runs.mkdir(parents=True, exist_ok=True)
    dev, tests = read_sts(asked.data / "sts/stsb_dev.tsv.gz"), read(asked.data / "nli/snli_dev.tsv.gz")[:3000]
    sentences, start = texts(asked.data), random_bert()
    size = sum(leaf.size for leaf in jax.tree.leaves(start.params))
    print(f"{len(sentences):,} sentences; {size:,} parameters", flush=True)
    if not (runs / "masked words").is_dir():
        learned, curve = pretrain(start, sentences, asked.steps, dev)
        (runs / "masked-words.json").write_text(json.dumps(curve))
        learned.save(runs / "masked words")
    models = {"random": start, "masked words": SentenceEncoder(runs / "masked words")}
    curves = {"masked words": json.loads((runs / "masked-words.json").read_text())}
    nli, pairs = write_pairs(asked.data, runs)
    most = asked.pair_steps
    options = {"batch_size": 32, "learning_rate": 3e-4, "checkpoint_every": 300, "max_steps": most}
    for before in ("random", "masked words"):
        for loss, file in (("softmax", nli), ("multiple_negatives_ranking", pairs)):
            name = f"{before}, then {loss.replace('_', ' ')}"
            print(name, flush=True)
            config = TrainConfig((str(file),), loss, epochs=2, evaluate_every=max(1, most // 6), **options)
            models[name], curves[name] = finetune(models[before], config, runs / name.replace(" ", "-"), dev)
    scores = {name: interval(model, dev) for name, model in models.items()}
    for name in ("random", "masked words"):
        scores[f"{name}, [CLS]"] = interval(models[name].with_pooling("cls"), dev)
    if "MINISBERT_GLOVE" in os.environ:
        scores["GloVe"] = interval(AveragedWords.load(os.environ["MINISBERT_GLOVE"]), dev)
    learn = [row for file in NLI for row in read(asked.data / f"{file}.tsv.gz")][::3]
    heads = {name: accuracy_of_a_head(models[name], learn, tests) for name in models if "ranking" not in name}
    result = {
        "command": "python notebooks/table_1.py ../shared/data",
        "size": {
            **SIZE,
            "parameters": size,
            "sentences": len(sentences),
            **{name: curves["masked words"].pop(name) for name in ("words", "tokens")},
        },
        "steps": asked.steps,
        "pair_steps": asked.pair_steps,
        "scores": scores,
        "class_cosines": {name: class_cosines(model, tests) for name, model in models.items()},
        "accuracy_of_a_head": heads,
        "curves": curves,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, (value, low, high) in scores.items():
        print(f"{name:50} {value:6.2f} [{low:6.2f}, {high:6.2f}]")
    print(f"{time.perf_counter() - started:.0f} s; {asked.out}")


if __name__ == "__main__":
    main()
