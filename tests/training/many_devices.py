"""Loss and gradient of every loss on 1, 2, 4 and 8 virtual devices, dropout on, and how far they are apart.

python tests/training/many_devices.py            the table, with XLA's optimizations (half an hour on two cores)
python tests/training/many_devices.py gradcache  a part of it: plain, gradcache, accumulated, deterministic, layouts or weights
python tests/training/many_devices.py --quick    a smaller part, as JSON, for test_sharding.py

One program computes every loss of `CASES`, chosen while it runs, on the same 56 texts: compiling is nearly all the work.
"""

import os

if __name__ == "__main__":  # before jax is imported, and not for the tests that import this file
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minisbert import SentenceEncoder
from minisbert.cross_encoder.losses import CROSS_ENCODER_LOSSES
from minisbert.inference.compiled import enable_compilation_cache
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.training.config import TrainConfig
from minisbert.training.deterministic import blockwise
from minisbert.training.losses import LOSSES, Targets, adaptive_layer, initial_softmax_head, matryoshka
from minisbert.training.sharding import data_mesh, place_batch, state_sharding, with_gather
from minisbert.training.siamese import (
    TrainBatch,
    TrainState,
    gradcache,
    initial_state,
    make_update,
    packed_embed,
    siamese_loss,
    train_step,
)
from minisbert.training.trainer import train

WEIGHTS = Path(__file__).parents[2] / "weights"
NEGATIVES = (0, 1, 2, 5)
N = 56  # texts, as examples of S
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
HARD = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
LISTS = ("rank_net", "lambda_loss", "list_net", "list_mle", "p_list_mle", "adr_mse")
PAIRS = (
    *("softmax", "cosine_similarity", "cosent", "angle", "contrastive", "online_contrastive", "contrastive_tension"),
    *("contrastive_tension_in_batch", "mega_batch_margin", "embed_distill", "global_orthogonal_regularization"),
)
# Every loss with as many hard negatives as it can use.
CASES = [
    *((name, 2, {}) for name in PAIRS),
    *((name, 1, {}) for name in LOSSES if name.startswith("batch_")),
    *(("gist", 2 + count, {}) for count in NEGATIVES),
    *(("distill_kl_div", 2 + count, {}) for count in NEGATIVES[1:]),
    *(("multiple_negatives_ranking", 2 + count, {}) for count in NEGATIVES),
    ("multiple_negatives_ranking", 2, SYMMETRIC),
    ("triplet", 3, {}),
    *(("margin_mse", 2 + count, {}) for count in NEGATIVES[1:]),
    *(("mse", 2 + count, {}) for count in NEGATIVES),
    ("multiple_negatives_ranking", 3, HARD),
    ("cosent", 2, {"matryoshka": (32, 8)}),
    ("multiple_negatives_ranking", 3, {"layers": True}),
    ("gist", 3, {"layers": True, "matryoshka": (32, 8)}),  # 2D Matryoshka
    *((name, 4, {}) for name in LISTS),  # of a cross-encoder: queries with four documents
]
QUICK = [("softmax", 2, {}), ("multiple_negatives_ranking", 4, SYMMETRIC), ("gist", 3, {})]
# For the tensor layout: a family and how many devices share each layer.
CUT = (
    *(("bert", 2), ("bert", 4), ("albert", 5), ("distilbert", 5), ("mpnet", 3), ("modernbert", 3)),
    *(("qwen3", 2), ("gemma3_text", 3), ("t5", 3), ("deberta-v2", 3)),
)
CHUNK = 10
MODES = ("plain", "gradcache", "accumulated")


def any_loss(layers_1NID: jax.Array, given: Targets, head: dict, *, cases: list) -> jax.Array:
    """The loss of `cases[which]`; the columns of `given.labels_B` are which, class, score, margins."""
    which_N, class_N, score_N, *_ = given.labels_B.T
    margin_N5 = given.labels_B[:, 3:]

    def one(name, S, options):
        row, B, options = {**CROSS_ENCODER_LOSSES, **LOSSES}[name], N // S, dict(options)
        layers, dimensions = options.pop("layers", False), options.pop("matryoshka", ())
        labels = {"class": class_N.astype(jnp.int32), "margin": margin_N5[:B, : S - 2]}.get(row.needs, score_N)
        hashes_SB, teacher_SBD = given.hashes_SB[0, : S * B], given.teacher_SBD[0, : S * B]
        teacher_SBD = teacher_SBD.reshape(S, B, -1)
        targets = Targets(labels[:B], hashes_SB.reshape(S, B), teacher_SBD, guide_SBD=teacher_SBD[..., :20])
        own = head if name in ("softmax", "contrastive_tension_in_batch") else None
        embeddings = layers_1NID[0, : S * B].reshape(S, B, *layers_1NID.shape[2:])
        function = partial(row.function, **options)
        if name in LISTS:  # one number of an embedding as the logit, and relevances 0, 1, 2
            embeddings, targets = embeddings[..., :1], Targets(class_N[: S * B].reshape(B, S))
        if dimensions:
            function = matryoshka(function, dimensions)
        if layers:
            return lambda: adaptive_layer(function)(embeddings, targets, own)
        return lambda: function(embeddings[:, :, -1], targets, own)

    return jax.lax.switch(which_N[0].astype(jnp.int32), [one(*case) for case in cases])


def batch_of(seed: int, width: int, dtype) -> TrainBatch:
    """56 texts in packed rows; some texts twice, on different devices."""
    random = np.random.default_rng(seed)
    texts = [random.integers(5, 60, random.integers(20, 33)).tolist() for _ in range(N)]
    rows, where = pack(texts, padding_id=0, multiple=8)
    examples_PT = np.zeros(rows.lengths_PT.shape, np.uint32)
    examples_PT.flat[where] = np.arange(N)
    hashes = random.integers(0, 2**32, N).astype(np.uint32)
    hashes[[29, 35, 50]] = hashes[[1, 30, 2]]
    labels = [np.zeros(N), np.arange(N) % 3, np.arange(N) % 5 / 4, *(10 * random.normal(size=(5, N)))]
    given = Targets(
        np.stack(labels, axis=1).astype(dtype),
        hashes[None],
        random.normal(size=(1, N, width)).astype(dtype),
    )
    return TrainBatch(rows, examples_PT, np.zeros_like(examples_PT, np.int32), where.reshape(1, N), given)


def choose(batch: TrainBatch, which: int) -> TrainBatch:
    """The batch for `cases[which]`."""
    labels_B = batch.targets.labels_B.copy()
    labels_B[:, 0] = which
    return batch._replace(targets=batch.targets._replace(labels_B=labels_B))


def keep_gradient() -> optax.GradientTransformation:
    """An "optimizer" whose state is the gradient."""
    zeros = partial(jax.tree.map, jnp.zeros_like)
    return optax.GradientTransformation(zeros, lambda gradient, state, params=None: (zeros(gradient), gradient))


class Bench:
    """A tiny model of a family with one layer, and its loss and gradient in every way."""

    def __init__(self, family: str = "bert", dtype: str = "float32", *, quick: bool = False, dropout: bool = True):
        model = load_pretrained(WEIGHTS / f"tiny-{family}")
        model_config, params = model.model_config, jax.tree.map(np.asarray, model.params)
        if len(params["encoder"]["blocks"]) > 1 and family == "bert":
            model_config = replace(model_config, encoder=replace(model_config.encoder, num_hidden_layers=1))
            del params["encoder"]["blocks"][1]
        self.dtype, self.cases = dtype, QUICK if quick else CASES
        self.definition, _ = define(model_config, jnp.dtype(dtype))
        self.dropout = dropout
        head = initial_softmax_head(jax.random.key(0), model_config.dimension, 3) | {"log_scale": np.float32(2)}
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), {"model": params, "head": dict(head)})
        self.batches = [batch_of(seed, model_config.dimension, dtype) for seed in (0, 1)]

    def run(self, mode: str, layout: str, devices: int, model_devices: int = 1, *, deterministic: bool = False):
        """The loss and the gradient's leaves of each case, and how many leaves are spread."""
        with jax.enable_x64(self.dtype == "float64"):
            mesh = data_mesh(devices, model_devices)
            optimizer, batches = keep_gradient(), self.batches
            if mode == "accumulated":
                optimizer = optax.MultiSteps(optimizer, 2).gradient_transformation()
            else:
                batches = batches[:1]
            state = initial_state(jax.tree.map(jnp.asarray, self.params), optimizer, 0)
            embed, loss = packed_embed(self.definition, "layers"), partial(any_loss, cases=self.cases)
            update = make_update(optimizer)
            sharding = state_sharding(state, mesh, layout)
            if deterministic:
                chunk_size = CHUNK if mode == "gradcache" else None
                gradient = blockwise(embed, loss, list(mesh.devices.flat), chunk_size=chunk_size)
                step = partial(train_step, gradient=gradient, update=jax.jit(update), dropout=self.dropout)
            else:
                gradient = jax.value_and_grad(siamese_loss(embed, loss))
                if mode == "gradcache":
                    gradient = gradcache(embed, loss, CHUNK)
                gradient = with_gather(gradient, sharding.params)
                step = partial(train_step, gradient=gradient, update=update, dropout=self.dropout)
                step = jax.jit(step, out_shardings=(sharding, None))
            found = []
            for which in range(len(self.cases)):
                after: TrainState = jax.device_put(
                    jax.tree.map(jnp.copy, state), mesh.devices.flat[0] if deterministic else sharding
                )
                losses = []
                for batch in batches:
                    batch = choose(batch, which)
                    after, metrics = step(after, batch if deterministic else place_batch(batch, mesh))
                    losses.append(float(metrics.loss))
                gradient = after.optimizer_state.inner_opt_state if mode == "accumulated" else after.optimizer_state
                found.append((losses[-1], [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]))
            # mse over all 56 texts is one number, however many columns they are.
            assert len({loss for loss, _ in found}) >= len(self.cases) - 3, "not every loss was computed"
            spread = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(after.params))
        return found, spread


def apart(one: list, other: list) -> list[tuple[float, float]]:
    """Of each case the relative difference of the losses and of the gradients."""
    result = []
    for (loss, leaves), (other_loss, other_leaves) in zip(one, other, strict=True):
        norm = np.sqrt(sum(float(np.sum(np.float64(a) ** 2)) for a in leaves))
        off = np.sqrt(sum(float(np.sum((np.float64(a) - b) ** 2)) for a, b in zip(leaves, other_leaves, strict=True)))
        assert norm > 1e-4, "there is no gradient to compare"
        result.append((abs(other_loss / loss - 1), off / norm))
    return result


def same_bits(one: list, other: list) -> bool:
    """Whether losses and gradients are the same to the bit."""
    return all(
        loss == other_loss and all(np.array_equal(a, b) for a, b in zip(leaves, other_leaves, strict=True))
        for (loss, leaves), (other_loss, other_leaves) in zip(one, other, strict=True)
    )


def quick() -> dict:
    """The part for test_sharding.py: float64 without XLA's optimizations, everything against one device."""
    bench = Bench(dtype="float64", quick=True)
    one, _ = bench.run("plain", "replicated", 1)
    found = []
    for mode, layout, devices, model in (
        ("plain", "replicated", 8, 1),
        ("gradcache", "fsdp", 2, 1),
        ("plain", "tensor", 4, 2),
    ):
        other, spread = bench.run(mode, layout, devices, model)
        worst = np.max(apart(one, other), axis=0).tolist()
        found.append({"case": [mode, layout, devices, model], "loss": worst[0], "gradient": worst[1], "spread": spread})
    bench = Bench(quick=True)
    deterministic = [bench.run("plain", "replicated", devices, deterministic=True)[0] for devices in (1, 2)]
    return {"apart": found, "deterministic": same_bits(*deterministic)}


def modes(modes: tuple[str, ...] = MODES) -> None:
    """Every loss in these modes, printed as it is found; float32 as users train."""
    print(f"{len(CASES)} losses, with as many hard negatives as they take; dropout on; float32; tiny BERT, 1 layer")
    print(
        "largest over the losses: |loss / loss on 1 device - 1|, |gradient - gradient on 1 device| / |gradient on 1 device|"
    )
    bench = Bench()
    rows: dict[int, list] = {which: [] for which in range(len(CASES))}
    for mode in modes:
        one, _ = bench.run(mode, "replicated", 1)
        for devices in (2, 4, 8):
            differences = apart(one, bench.run(mode, "replicated", devices)[0])
            print(f"{mode:12} {devices} devices", *(f"{x:.1e}" for x in np.max(differences, axis=0)), flush=True)
            for which, difference in enumerate(differences):
                rows[which].append(max(difference))
    for which, (name, S, options) in enumerate(CASES):
        print(f"  {name} S={S}{' with ' + ', '.join(options) if options else ''}: {max(rows[which]):.1e}")


def deterministic() -> None:
    """Every loss in every mode, with a deterministic reduction."""
    bench = Bench()
    for mode in MODES:
        one, _ = bench.run(mode, "replicated", 1, deterministic=True)
        for devices in (2, 4, 8):
            same = same_bits(one, bench.run(mode, "replicated", devices, deterministic=True)[0])
            print(
                f"{mode:12} {devices} devices, deterministic: {'the same bits' if same else 'OTHER BITS'}", flush=True
            )


def layouts() -> None:
    """Every loss with the parameters cut over devices."""
    for family, model in CUT:
        for dtype in ("float32", "float64"):
            bench = Bench(family, dtype)
            one, _ = bench.run("plain", "replicated", 1)
            layouts = [("tensor", 8 // model * model, model)] + [("fsdp", 8, 1)] * (model == 2)
            for layout, devices, of_model in layouts:
                other, spread = bench.run("plain", layout, devices, of_model)
                worst = " ".join(f"{x:.1e}" for x in np.max(apart(one, other), axis=0))
                mesh = f"{devices // of_model} x {of_model} devices"
                print(f"{layout} {family} {dtype} {mesh}, {spread} leaves spread: {worst}", flush=True)


def weights(steps: int = 4) -> None:
    """Runs of the training loop with `deterministic=True`: a hash of the weights after some steps of AdamW."""
    words = "cat dog house river tree stone book train".split()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "pairs.tsv")
        rows = "".join(f"the {a} and {b}\ta {b} by a {a}\n" for a in words for b in words)
        data.write_text(f"anchor\tpositive\n{rows}")
        for settings in ({}, {"chunk_size": 6}, {"accumulate": 2}):
            found = []
            for devices in (1, 2, 4, 8):
                config = TrainConfig((str(data),), batch_size=16, max_steps=steps, deterministic=True, **settings)
                run = Path(folder, f"{devices}-{'-'.join(settings)}")
                trained = train(
                    SentenceEncoder.load(WEIGHTS / "tiny-bert"), config, run, devices=devices, show_progress=False
                )
                leaves = jax.tree.leaves(trained.pretrained.params)
                found.append(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16])
            print(
                f"weights after {steps} steps, deterministic, {settings or 'plain'}, 1, 2, 4, 8 devices:",
                *found,
                flush=True,
            )


PARTS = {**{mode: partial(modes, (mode,)) for mode in MODES}, "deterministic": deterministic, "layouts": layouts}

if __name__ == "__main__":
    enable_compilation_cache()
    if "--quick" in sys.argv:
        print(json.dumps(quick()))
    elif sys.argv[1:]:
        for part in sys.argv[1:]:
            (PARTS | {"weights": weights})[part]()
    else:
        weights()
        modes()
        deterministic()
        layouts()
