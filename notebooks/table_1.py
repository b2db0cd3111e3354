"""SBERT's table 1 on real text, with a small BERT that is pretrained here, in minutes on two idle cores.

    python notebooks/table_1.py DATA                                                   writes notebooks/table_1.json
    python notebooks/table_1.py DATA --steps 8 --pair-steps 4 --runs runs/try --out try.json        a try

Reimers & Gurevych 2019, table 1, compares averaged word vectors, the vectors of a pretrained BERT (their mean, or [CLS]), and
BERT after training on NLI. Here BERT is small and pretrained on little text, so the figures are others: compare the order.
Notebook 07 shows the table, notebook 08 asks what the softmax loss does to a model that knows little.

    texts      all sentences of the training files, without those of STS-B's development set
    pretrain   masked words (Devlin et al. 2019, section 3.1), from random weights; each number of steps is a start
    finetune   the softmax loss or multiple negatives, from random weights and, unless `--start random`, from each start
    score      Spearman on STS-B's development set, with a bootstrap over pairs
    why        cosines of NLI pairs by class; accuracy of a head on frozen vectors; how few directions rule the cosine

Nothing is chosen by a test set: all scores are on development sets. What is trained is in `--runs`; started again, the program
resumes at the last score. DATA has nli/ and sts/ with gzipped tsv files; `FILES` lists them. Set MINISBERT_GLOVE as in
notebook 07 to score GloVe too.
"""

import argparse
import gzip
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from minisbert import SentenceEncoder
from minisbert.atomic_write import whole_file
from minisbert.checkpoint.convert import Converted
from minisbert.evaluation.sts import evaluate_sts, read_sts
from minisbert.evaluation.word_vectors import AveragedWords
from minisbert.sentence_model import define, initial_params
from minisbert.similarity import pairwise_cosine
from minisbert.training.losses import Targets, initial_softmax_head, multiple_negatives_ranking, softmax
from minisbert.training.optimizer import adamw, schedule

FILES = ("nli/snli_train_20k", "nli/mnli_train_10k", "nli/snli_cad_train", "sts/stsb_train", "sts/sick_train")
NLI = FILES[:2]
SIZE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
LENGTH, BATCH = 32, 64  # tokens per sentence at most, sentences per step
MASKED = 4  # places per sentence that are predicted: 15 % of the average 13 tokens are two, of 32 they are five
RARE = 3  # a word seen less often is never predicted
CLASSES = ("entailment", "neutral", "contradiction")
SIDES = ("sentence1", "sentence2")
FEW = 6  # directions looked at


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


# --- training ------------------------------------------------------------------------------------------------------------


def learn(
    encoder: SentenceEncoder,
    head: dict,
    loss: Callable,
    draw: Callable[[], tuple],
    steps: int,
    rate: float,
    dev: object,
    folder: Path,
    cls: bool = False,
) -> tuple[SentenceEncoder, dict]:
    """Train encoder and head with AdamW; the steps between two scores are one compiled loop.

    Args:
        loss: (params, *batch) -> scalar, with params["model"] and params["head"].
        draw: gives a batch.
        folder: where the state is saved at each score, so that a run that ended early resumes there.
        cls: score [CLS] too.

    Returns:
        the trained encoder, and its curves: loss, and STS of the mean, perhaps of [CLS].
    """
    optimizer = adamw(schedule("linear", rate, steps // 10, steps), weight_decay=0.01, clip_norm=1.0)
    params = {"model": encoder.params, "head": head}

    def step(carry, batch):
        params, moments = carry
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    run = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches))
    carry, every, losses = (params, optimizer.init(params)), max(1, steps // 8), []
    poolings = ("mean", "cls") if cls else ("mean",)
    state = folder / "state.npz"
    if state.is_file():
        leaves, tree = jax.tree.flatten(carry)
        with np.load(state) as saved:
            carry = tree.unflatten([saved[str(i)] for i in range(len(leaves))])
            curve, losses = json.loads(str(saved["curve"]))
        encoder = encoder.with_params(carry[0]["model"])
    else:
        curve = {"step": [0], **{name: [sts(encoder.with_pooling(name), dev)] for name in poolings}}
    for done in range(every, steps + 1, every):
        drawn = [draw() for _ in range(every)]
        if done <= curve["step"][-1]:  # drawn only so that the next batches are those of a run that did not end
            continue
        carry, losses_S = run(carry, tuple(map(np.stack, zip(*drawn, strict=True))))
        encoder = encoder.with_params(carry[0]["model"])
        losses += losses_S.tolist()
        curve["step"].append(done)
        for name in poolings:
            curve[name].append(sts(encoder.with_pooling(name), dev))
        leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(carry))}
        with whole_file(state) as temporary, temporary.open("wb") as file:
            np.savez(file, curve=json.dumps([curve, losses]), **leaves)
        print(f"  step {done}: loss {np.mean(losses[-20:]):.3f}, STS {curve['mean'][-1]:.1f}", flush=True)
    windows = np.array_split(losses, min(100, len(losses)))
    curve["loss_step"] = np.cumsum([len(window) for window in windows]).tolist()
    curve["loss"] = [round(float(np.mean(window)), 4) for window in windows]
    return encoder, curve


def pretrain(
    encoder: SentenceEncoder, sentences: list[str], steps: int, dev: object, folder: Path
) -> tuple[SentenceEncoder, dict]:
    """The encoder after `steps` of masked words, and its curves."""
    rows_BL, random = token_rows(encoder, sentences), np.random.default_rng(0)
    ids, counts = np.unique(rows_BL, return_counts=True)
    special = [encoder.tokenizer.backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    common_V = np.setdiff1d(ids[counts >= RARE], special)
    model_definition, _ = define(encoder.model_config)
    head_definition, head = nnx.split(WordHead(encoder.model_config.dimension, len(common_V), nnx.Rngs(0)))

    def loss(params, seen_BL, place_BM, word_BM, weight_BM):
        model = nnx.merge(model_definition, params["model"])
        hidden_BLD = model.tokens(seen_BL, seen_BL > 0)
        hidden_BMD = jnp.take_along_axis(hidden_BLD, place_BM[:, :, None], axis=1)
        table_VD = params["model"]["encoder"]["token_embedding"]["embedding"][common_V]
        logits_BMV = nnx.merge(head_definition, params["head"])(hidden_BMD, table_VD)
        each_BM = optax.softmax_cross_entropy_with_integer_labels(logits_BMV, word_BM)
        return (each_BM * weight_BM).sum() / weight_BM.sum()

    def draw():
        rows = random.choice(len(rows_BL), BATCH, replace=False)
        return masked(rows_BL[rows], common_V, special[-1], random)

    encoder, curve = learn(encoder, nnx.to_pure_dict(head), loss, draw, steps, 1e-3, dev, folder, cls=True)
    return encoder, {**curve, "words": len(common_V), "tokens": int((rows_BL > 0).sum())}


def finetune(
    encoder: SentenceEncoder, name: str, pairs: list[dict[str, str]], steps: int, dev: object, folder: Path
) -> tuple[SentenceEncoder, dict]:
    """The encoder after `steps` of a loss on NLI pairs, and its curves: all pairs with their class, or the entailed ones."""
    ranking, random = name == "multiple negatives ranking", np.random.default_rng(0)
    rows = [row for row in pairs if not ranking or row["label"] == "entailment"]
    ids_SBL = np.stack([token_rows(encoder, [row[side] for row in rows]) for side in SIDES])
    class_B = np.array([CLASSES.index(row["label"]) for row in rows], np.int32)
    definition, _ = define(encoder.model_config)
    function = multiple_negatives_ranking if ranking else softmax
    head = {} if ranking else initial_softmax_head(jax.random.key(0), encoder.model_config.dimension, len(CLASSES))

    def loss(params, ids_SBL, class_B):
        # One network reads both columns: the siamese step without packing.
        ids_XL = ids_SBL.reshape(-1, ids_SBL.shape[-1])
        sentence_XD = nnx.merge(definition, params["model"])(ids_XL, (ids_XL > 0).sum(axis=1)).sentence_BD
        return function(sentence_XD.reshape(*ids_SBL.shape[:2], -1), Targets(labels_B=class_B), params["head"])

    def draw():
        rows = random.choice(len(class_B), BATCH // 2, replace=False)
        return ids_SBL[:, rows], class_B[rows]

    return learn(encoder, head, loss, draw, steps, 5e-4, dev, folder)


def once(folder: Path, make: Callable[[Path], tuple[SentenceEncoder, dict]]) -> tuple[SentenceEncoder, dict]:
    """The model and the curves in a folder; made if they are not there."""
    if not (folder / "curve.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        learned, curve = make(folder)
        learned.save(folder / "model")
        (folder / "curve.json").write_text(json.dumps(curve))
        (folder / "state.npz").unlink()
    return SentenceEncoder(folder / "model"), json.loads((folder / "curve.json").read_text())


# --- scores --------------------------------------------------------------------------------------------------------------


def sts(encoder: object, dev: object) -> float:
    """Spearman x 100."""
    return round(100 * evaluate_sts(encoder, dev, resamples=0, on_truncate="ignore").score().spearman.value, 2)


def interval(encoder: object, dev: object) -> list[float]:
    """Spearman x 100, with its 95 % interval."""
    found = evaluate_sts(encoder, dev, on_truncate="ignore").score().spearman
    return [round(100 * x, 2) for x in (found.value, found.low, found.high)]


def sides(encoder: SentenceEncoder, rows: list[dict[str, str]]) -> list[np.ndarray]:
    """u_BD and v_BD, of premises and hypotheses."""
    return [encoder.encode([row[side] for row in rows], on_truncate="ignore") for side in SIDES]


def class_cosines(encoder: SentenceEncoder, rows: list[dict[str, str]]) -> dict[str, float]:
    """The mean cosine of premise and hypothesis, by class."""
    cosine_B, label_B = pairwise_cosine(*sides(encoder, rows)), np.array([row["label"] for row in rows])
    return {name: round(float(cosine_B[label_B == name].mean()), 4) for name in CLASSES}


def accuracy_of_a_head(
    encoder: SentenceEncoder, learn: list[dict[str, str]], rows: list[dict[str, str]]
) -> dict[str, float]:
    """Accuracy on `rows` of new linear heads, trained while the encoder stays as it is: on (u, v, |u - v|), and on v alone."""
    (u_BD, v_BD), (test_u_BD, test_v_BD) = sides(encoder, learn), sides(encoder, rows)
    learn_B, test_B = (np.array([CLASSES.index(row["label"]) for row in some]) for some in (learn, rows))
    features = {
        "u, v, |u - v|": (
            np.concatenate([u_BD, v_BD, abs(u_BD - v_BD)], axis=1),
            np.concatenate([test_u_BD, test_v_BD, abs(test_u_BD - test_v_BD)], axis=1),
        ),
        "v": (v_BD, test_v_BD),
    }
    found = {}
    for name, (x_BF, test_BF) in features.items():
        mean_F, deviation_F = x_BF.mean(axis=0), x_BF.std(axis=0) + 1e-6
        kernel_FC = np.asarray(linear_head((x_BF - mean_F) / deviation_F, learn_B))
        predicted_B = ((test_BF - mean_F) / deviation_F @ kernel_FC).argmax(axis=1)
        found[name] = round(float((predicted_B == test_B).mean()), 4)
    return found


@jax.jit
def linear_head(x_BF: jax.Array, class_B: jax.Array) -> jax.Array:
    """kernel_FC after 150 steps of Adam on the cross-entropy of the classes."""
    optimizer = optax.adam(0.02)

    def loss(kernel_FC):
        each_B = optax.softmax_cross_entropy_with_integer_labels(x_BF @ kernel_FC, class_B)
        return each_B.mean() + 1e-3 * (kernel_FC**2).sum()

    def step(carry, _):
        kernel_FC, moments = carry
        updates, moments = optimizer.update(jax.grad(loss)(kernel_FC), moments)
        return (kernel_FC + updates, moments), None

    kernel_FC = jnp.zeros((x_BF.shape[1], len(CLASSES)))
    return jax.lax.scan(step, (kernel_FC, optimizer.init(kernel_FC)), length=150)[0][0]


class Without:
    """Vectors that are known already, without some directions."""

    def __init__(self, vectors: dict[str, np.ndarray], direction_KD: np.ndarray):
        self.vectors, self.direction_KD = vectors, direction_KD

    def encode(self, sentences: list[str], **_: object) -> np.ndarray:
        sentence_BD = np.stack([self.vectors[text] for text in sentences])
        return sentence_BD - sentence_BD @ self.direction_KD.T @ self.direction_KD


def directions(encoder: SentenceEncoder, sentences: list[str], dev: object) -> dict[str, list[float]]:
    """How few directions the vectors of `sentences` use, and the STS score without them.

    Returns:
        share: of the squared lengths, in the 1, 2, ... `FEW` directions that hold most.
        without: Spearman x 100 with 0, 1, ... `FEW` of them taken out.
    """
    _, value_D, direction_DD = np.linalg.svd(encoder.encode(sentences, on_truncate="ignore"), full_matrices=False)
    share_D = np.cumsum(value_D**2) / (value_D**2).sum()
    distinct = list(dict.fromkeys([*dev.first, *dev.second]))
    vectors = dict(zip(distinct, encoder.encode(distinct, on_truncate="ignore"), strict=True))
    without = [sts(Without(vectors, direction_DD[:k]), dev) for k in range(FEW + 1)]
    return {"share": [round(float(share), 4) for share in share_D[:FEW]], "without": without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[900], help="of masked words; one start for each number"
    )
    parser.add_argument("--pair-steps", type=int, default=400, help="of each training on pairs")
    parser.add_argument(
        "--start", choices=("all", "random"), default="all", help="from which weights the pairs are learned"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/table-1"))
    asked = parser.parse_args()
    started, runs = time.perf_counter(), asked.runs
    runs.mkdir(parents=True, exist_ok=True)
    dev, tests = read_sts(asked.data / "sts/stsb_dev.tsv.gz"), read(asked.data / "nli/snli_dev.tsv.gz")[:2000]
    sentences, start = texts(asked.data), random_bert()
    size = sum(leaf.size for leaf in jax.tree.leaves(start.params))
    print(f"{len(sentences):,} sentences; {size:,} parameters", flush=True)
    models, curves = {"random": start}, {}
    for steps in asked.steps:
        name = f"masked words, {steps:,} steps"
        make = partial(pretrain, start, sentences, steps, dev)
        models[name], curves[name] = once(runs / f"masked-words-{steps}", make)
    starts, most = tuple(models), asked.pair_steps
    pairs = [row for file in NLI for row in read(asked.data / f"{file}.tsv.gz")]
    for before in starts if asked.start == "all" else ("random",):
        for loss in ("softmax", "multiple negatives ranking"):
            name = f"{before}, then {loss}"
            print(name, flush=True)
            make = partial(finetune, models[before], loss, pairs, most, dev)
            models[name], curves[name] = once(runs / re.sub(r"\W+", "-", f"{name} {most}"), make)
    scores = {name: interval(model, dev) for name, model in models.items()}
    for name in starts:
        scores[f"{name}, [CLS]"] = interval(models[name].with_pooling("cls"), dev)
    if "MINISBERT_GLOVE" in os.environ:
        scores["GloVe"] = interval(AveragedWords.load(os.environ["MINISBERT_GLOVE"]), dev)
    some = sentences[:: max(1, len(sentences) // 2000)]
    result = {
        "command": f"python notebooks/table_1.py DATA --steps {' '.join(map(str, asked.steps))} --pair-steps {most} "
        f"--start {asked.start}",
        "size": {
            **SIZE,
            "parameters": size,
            "sentences": len(sentences),
            "tokens": curves[starts[-1]].pop("tokens"),
            "words": curves[starts[-1]].pop("words"),
        },
        "scores": scores,
        "class_cosines": {name: class_cosines(model, tests) for name, model in models.items()},
        "accuracy_of_a_head": {
            name: accuracy_of_a_head(model, pairs[::5], tests)
            for name, model in models.items()
            if "ranking" not in name
        },
        "directions": {name: directions(model, some, dev) for name, model in models.items()},
        "curves": curves,
    }
    parts = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()]
    asked.out.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    for name, (value, low, high) in scores.items():
        print(f"{name:60} {value:6.2f} [{low:6.2f}, {high:6.2f}]")
    print(f"{time.perf_counter() - started:.0f} s; {asked.out}")


if __name__ == "__main__":
    main()
