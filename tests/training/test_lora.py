"""training/lora.py: the change of the weights is scale * A B and nothing else, in forward pass, gradient and saved folder."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TWINS, tiny
from jax.flatten_util import ravel_pytree
from runs import ONE_LAYER, assert_resumes_to_the_same_bits, changed, losses, weights

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.checkpoint.convert import flatten
from minisbert.errors import InputError, TrainingError
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.training.config import TrainConfig
from minisbert.training.lora import TARGETS, initial_adapters, merge_lora, target_of, with_lora
from minisbert.training.losses import LOSSES
from minisbert.training.siamese import TrainBatch, gradcache, packed_embed, siamese_loss
from minisbert.training.targets import Targets
from minisbert.training.trainer import train

# float64 throughout: only another formula could show. 1e-15 is measured.
FLOAT64 = 1e-11
# Central differences with a step of 1e-5: the error is the step squared times the third derivative; 4e-9 is measured.
DIFFERENCES = 1e-7
SCALE = 0.5


def normals(tree, seed=0, size=1.0):
    """Random numbers in the shapes of a tree, so that B, which begins as zero, does something."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: size * rng.normal(size=leaf.shape), tree)


@cache
def one_layer():
    """tiny-bert in float64 without its second layer: its definition and parameters."""
    model = load_pretrained(tiny("bert"))
    model_config = replace(model.model_config, encoder=replace(model.model_config.encoder, num_hidden_layers=1))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
    del params["encoder"]["blocks"][1]
    return define(model_config, jnp.float64)[0], params


def batch_of(S=2, B=4):
    rng = np.random.default_rng(0)
    rows, where = pack([rng.integers(5, 60, rng.integers(4, 12)).tolist() for _ in range(S * B)], padding_id=0)
    numbers = np.zeros(rows.lengths_PT.shape, np.int32)
    hashes_SB = rng.integers(0, 2**32, (S, B)).astype(np.uint32)
    return TrainBatch(rows, numbers.astype(np.uint32), numbers, where.reshape(S, B), Targets(None, hashes_SB))


class AdaptedMatrix:
    """A matrix with an adapter next to it, as section 4.1 draws it: x W + scale * (x A) B, two paths and one sum."""

    __array_ufunc__ = None  # so that NumPy leaves x @ AdaptedMatrix to us

    def __init__(self, kernel_IO, a_IR, b_RO):
        self.kernel_IO, self.a_IR, self.b_RO = kernel_IO, a_IR, b_RO

    def __getitem__(self, columns):
        return AdaptedMatrix(self.kernel_IO[columns], self.a_IR, self.b_RO[columns])

    def __rmatmul__(self, x):
        return x @ self.kernel_IO + SCALE * ((x @ self.a_IR) @ self.b_RO)


class Joined(list):
    """Adapted matrices side by side."""

    __array_ufunc__ = None

    def __rmatmul__(self, x):
        return np.concatenate([x @ matrix for matrix in self], axis=-1)


def in_place(tree, path, value):
    *parents, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
    for parent in parents:
        tree = tree[parent]
    tree[leaf] = value


@pytest.mark.parametrize("family", TWINS)
def test_merged_weights_compute_the_same_as_separate_adapters(family, monkeypatch):
    """The NumPy twin with two paths at every adapted matrix, against the same twin with the merged weights."""
    model = load_pretrained(tiny(family))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
    with jax.enable_x64(True):
        trained = normals(initial_adapters(params, 3, list(TARGETS), jax.random.key(0)), size=0.2)
        merged = jax.tree.map(np.asarray, merge_lora(params, trained, scale=SCALE))
    adapted = jax.tree.map(lambda leaf: leaf, params)
    factors = flatten(trained["adapters"])
    kernels = {name.rsplit(".", 2)[0] for name in factors}
    flat = flatten(params)
    for path in kernels:
        names = [name for name in TARGETS if f"{path}.{name}.a" in factors]
        matrices = np.split(flat[path], len(names), axis=1)  # in the order of the table: query, key, value
        pieces = [
            AdaptedMatrix(matrix, factors[f"{path}.{name}.a"], factors[f"{path}.{name}.b"])
            for name, matrix in zip(names, matrices, strict=True)
        ]
        in_place(adapted, path, Joined(pieces) if len(pieces) > 1 else pieces[0])
    split = np.split

    def split_with_adapters(array, parts, axis=0):
        """The twins cut joined matrices; here they are cut already, or their adapter is cut with them."""
        if isinstance(array, list):
            return array
        if isinstance(array, AdaptedMatrix):
            width = array.kernel_IO.shape[1] // parts
            return [array[:, part * width : (part + 1) * width] for part in range(parts)]
        return split(array, parts, axis=axis)

    ids_BL = np.random.default_rng(0).integers(5, model.model_config.encoder.vocab_size, (1, 4))
    mask_BL = np.ones((1, 4), bool)
    config, twin = model.model_config.encoder, TWINS[family]
    expected = twin(merged["encoder"], config, ids_BL, mask_BL)
    monkeypatch.setattr(np, "split", split_with_adapters)
    # The parameters are float64 already. RoBERTa's twin calls BERT's.
    for module in {twin.__module__, "minisbert.reference.encoder"}:
        monkeypatch.setattr(sys.modules[module], "float64", lambda params: params, raising=False)
    found = twin(adapted["encoder"], config, ids_BL, mask_BL)
    monkeypatch.undo()
    per_layer = 5 if family in ("qwen3", "gemma3_text", "t5") else 4  # query apart from key and value, or all in one
    assert len(kernels) == per_layer * model.model_config.encoder.num_hidden_layers or family == "albert"
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT64)
    assert np.abs(expected - twin(params["encoder"], config, ids_BL, mask_BL)).max() > 1e-2


def test_new_adapters_change_nothing_and_merging_leaves_the_base_parameters_alone():
    params = load_pretrained(tiny("mpnet")).params
    before = {path: np.asarray(leaf).tobytes() for path, leaf in flatten(params).items()}
    trained = initial_adapters(params, 4, ["query", "value"], jax.random.key(0))
    for path, leaf in flatten(merge_lora(params, trained, scale=2.0)).items():
        np.testing.assert_array_equal(leaf, np.frombuffer(before[path], np.float32).reshape(leaf.shape))
    changed = flatten(merge_lora(params, normals(trained), scale=2.0))
    assert before == {path: np.asarray(leaf).tobytes() for path, leaf in flatten(params).items()}
    different = {path for path, leaf in changed.items() if np.asarray(leaf).tobytes() != before[path]}
    assert different == {path for path in before if path.endswith("qkv.kernel")}
    keys = np.split(np.asarray(changed["encoder.blocks.0.attention.qkv.kernel"]), 3, axis=1)[1]
    np.testing.assert_array_equal(
        keys, np.split(np.asarray(flatten(params)["encoder.blocks.0.attention.qkv.kernel"]), 3, 1)[1]
    )


def test_at_full_rank_any_change_of_the_matrix_is_reached():
    """Section 4.1: with the rank of the matrices LoRA has the expressiveness of full fine-tuning. A = I, B = the change."""
    _, params = one_layer()
    with jax.enable_x64(True):
        trained = initial_adapters(params, 32, list(TARGETS), jax.random.key(0))
        wanted = normals(params)
        flat, goal = flatten(params), flatten(wanted)
        factors = flatten(trained["adapters"])
        for name in factors:
            place, _, factor = name.rpartition(".")
            path, _, target = place.rpartition(".")
            row = target_of(target, path)
            change_IO = np.split((goal[path] - flat[path]) / SCALE, row.parts, axis=1)[row.part]
            left = change_IO.shape[0] <= change_IO.shape[1]  # I is the factor of the shorter side
            eye = np.eye(min(change_IO.shape))
            value = {"a": eye if left else change_IO, "b": change_IO if left else eye}[factor]
            in_place(trained["adapters"], name, value)
        merged = flatten(merge_lora(params, trained, scale=SCALE))
    adapted = {name.rsplit(".", 2)[0] for name in factors}
    assert len(adapted) == 4
    for path in adapted:
        np.testing.assert_allclose(merged[path], goal[path], rtol=0, atol=FLOAT64)


def losses_and_gradients(chunk_size=None):
    """The siamese loss and its gradient in adapters (with LoRA) and in all parameters (without), at the same model."""
    definition, params = one_layer()
    params = jax.tree.map(jnp.asarray, params)
    embed = packed_embed(definition)
    adapted = with_lora(embed, params, SCALE)
    trained = normals(initial_adapters(params, 3, list(TARGETS), jax.random.key(0)), size=0.1)
    batch, loss = batch_of(), LOSSES["multiple_negatives_ranking"].function

    def of_adapters(model):
        return siamese_loss(adapted, loss)({"model": model, "head": {}}, batch)

    def of_params(model):
        return siamese_loss(embed, loss)({"model": model, "head": {}}, batch)

    if chunk_size is None:
        ours = jax.jit(jax.value_and_grad(of_adapters))(trained)
    else:
        value, gradient = jax.jit(gradcache(adapted, loss, chunk_size))({"model": trained, "head": {}}, batch, None)
        ours = value, gradient["model"]
    return of_adapters, trained, ours, jax.jit(jax.value_and_grad(of_params))(merge_lora(params, trained, scale=SCALE))


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_the_gradient_is_the_full_ones_through_the_two_factors(chunk_size):
    """d/dA = scale * dW B^T and d/dB = scale * A^T dW, whatever else the model does; plain and with GradCache."""
    with jax.enable_x64(True):
        _, trained, (loss, gradient), (full_loss, full) = losses_and_gradients(chunk_size)
    assert abs(float(loss) - float(full_loss)) <= FLOAT64
    found, of_kernels, factors = flatten(gradient["adapters"]), flatten(full), flatten(trained["adapters"])
    for name in factors:
        place, _, factor = name.rpartition(".")
        path, _, target = place.rpartition(".")
        row = target_of(target, path)
        d_IO = np.split(np.asarray(of_kernels[path]), row.parts, axis=1)[row.part]
        a_IR, b_RO = factors[f"{place}.a"], factors[f"{place}.b"]
        expected = SCALE * (d_IO @ b_RO.T if factor == "a" else a_IR.T @ d_IO)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=FLOAT64)
        assert target == "key" or np.abs(expected).max() > 1e-6


def test_gradient_against_finite_differences():
    with jax.enable_x64(True):
        of_adapters, trained, (_, gradient), _ = losses_and_gradients()
        flat, unravel = ravel_pytree(trained)
        slope = np.asarray(ravel_pytree(gradient)[0])
        rng, step = np.random.default_rng(0), 1e-5
        value = jax.jit(lambda flat: of_adapters(unravel(flat)))
        for _ in range(8):
            direction = rng.normal(size=flat.shape) / np.sqrt(flat.size)
            numeric = (value(flat + step * direction) - value(flat - step * direction)) / (2 * step)
            assert abs(numeric - slope @ direction) <= DIFFERENCES
        assert np.linalg.norm(slope) > 0.1


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    words = "man woman child dog cat water red blue".split()
    file = tmp_path / "pairs.tsv"
    rows = "".join(f"the {a} and a {b}\ta {b} by the {a}\n" for a in words[:4] for b in words[3:])
    file.write_text("anchor\tpositive\n" + rows)
    return str(file)


def config(data, **settings):
    defaults = {"batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2, "max_steps": 5, "lora_rank": 4}
    return TrainConfig(data=(data,), **defaults | {"dropout": False} | settings)


def run(config, folder, family="bert", **options):
    model = SentenceEncoder.load(ONE_LAYER if family == "bert" else tiny(family))
    return train(model, config, folder, show_progress=False, **options)


def test_a_run_trains_the_adapters_only_and_saves_an_ordinary_folder(pairs, tmp_path):
    base = SentenceEncoder.load(ONE_LAYER)
    before = weights(base)
    settings = config(pairs, lora_alpha=8.0, epochs=4, max_steps=None, checkpoint_every=20)
    trained = train(base, settings, tmp_path / "run", show_progress=False)
    assert not changed(base, before)
    assert changed(trained, before) == {path for path in before if path.endswith("qkv.kernel")}
    loaded = SentenceEncoder.load(tmp_path / "run" / "final")
    assert not changed(loaded, trained)
    np.testing.assert_array_equal(loaded.encode("a man"), trained.encode("a man"))
    names = {file.name for file in (tmp_path / "run" / "final").iterdir()}
    assert names - {"README.md"} == {file.name for file in ONE_LAYER.iterdir()}
    values = losses(tmp_path / "run")
    assert len(values) == 20 and np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    # The checkpoint is the adapters' and their two moments: about a tenth of the model's alone.
    stored = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoints" / "20").rglob("*") if file.is_file())
    assert stored < sum(value.nbytes for value in before.values())


def test_trainable_names_adapters(pairs):
    settings = config(pairs, max_steps=2, trainable=r"\.b$", weight_decay=0.0)
    base = SentenceEncoder.load(ONE_LAYER)
    views = []

    class Watch:
        def on_step(self, view):
            views.append({path: np.array(leaf) for path, leaf in flatten(view.params["adapters"]).items()})

    train(base, settings, show_progress=False, callbacks=[Watch()])
    first, last = views
    moved = {path.rsplit(".", 1)[1] for path in first if np.any(first[path] != last[path])}
    assert moved == {"b"}


@pytest.mark.parametrize("killed_before", [1, 4])
def test_resumed_to_the_bit(pairs, tmp_path, killed_before):
    assert_resumes_to_the_same_bits(partial(run, config(pairs, dropout=True)), tmp_path, killed_before)


def test_two_devices_with_base_parameters_spread_train_the_same(pairs, tmp_path):
    run(config(pairs, max_steps=2), tmp_path / "one")
    program = """
import sys
from minisbert.commands import main
for layout in ("fsdp", "replicated"):  # in one process: the second run must not take the first one's program
    main(["train", sys.argv[1], f"{sys.argv[2]}/{layout}", *sys.argv[3:], "--layout", layout])
"""
    command = [sys.executable, "-c", program, str(ONE_LAYER), str(tmp_path), "--data", pairs, "--lora-rank", "4"]
    command += ["--batch-size", "4", "--learning-rate", "1e-2", "--max-steps", "2", "--no-dropout"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for other in ("fsdp", "replicated"):
        assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / other), rel=1e-5)


@pytest.mark.parametrize("rank", [4, None])
def test_a_run_does_not_resume_with_other_weights(pairs, tmp_path, rank):
    run(config(pairs, max_steps=2, lora_rank=rank), tmp_path / "run")
    other = SentenceEncoder.load(ONE_LAYER)
    other.pretrained.params["encoder"]["embedding_norm"]["bias"] += 1e-3
    with pytest.raises(TrainingError, match="weights was '"):
        train(other, config(pairs, max_steps=2, lora_rank=rank), tmp_path / "run", show_progress=False)


def test_the_head_of_a_cross_encoder_is_trained_whole(tmp_path):
    file = tmp_path / "scored.tsv"
    file.write_text("score\tsentence1\tsentence2\n" + "".join(f"{i / 8}\ta man {i}\ta dog\n" for i in range(8)))
    model = CrossEncoder.from_encoder(SentenceEncoder.load(ONE_LAYER), 1, seed=0)
    before = weights(model)
    settings = config(str(file), loss="binary_cross_entropy", max_steps=2)
    trained = train(model, settings, tmp_path / "run", show_progress=False)
    heads = {path for path in before if path.startswith("head.")}
    assert heads and changed(trained, before) == heads | {path for path in before if path.endswith("qkv.kernel")}
    assert not changed(model, before)


def test_a_model_without_such_matrices_is_refused():
    with pytest.raises(InputError, match="lora_targets has 'query', but the model has no such matrix"):
        initial_adapters({"token_embedding": {"embedding": jnp.ones((3, 2))}}, 1, ["query"], jax.random.key(0))
