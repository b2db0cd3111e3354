"""training/plan.py: bytes are exact, FLOPs are those of the matrix products in the jaxpr, and no weights are read."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from families import TWINS, tiny

from minisbert.checkpoint.folder import read_folder
from minisbert.commands import main, plans
from minisbert.inference.program_costs import forward_flops
from minisbert.model_config import ModelConfig
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.training import plan as planning
from minisbert.training.collate import abstract_batch
from minisbert.training.config import TrainConfig
from minisbert.training.losses import Loss, mse
from minisbert.training.plan import CHIPS, GIB, plan
from minisbert.training.sharding import data_mesh
from minisbert.training.siamese import packed_embed
from minisbert.training.task import SIAMESE


def design_of(family):
    return ModelConfig.of(read_folder(tiny(family)))


def products(jaxpr) -> int:
    """FLOPs of all matrix products of a program: two for each product of two numbers."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * int(np.prod([left[axis] for axis in contracted]))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                total += products(inner)
    return total


@pytest.mark.parametrize("family", TWINS)
def test_flops_are_those_of_the_matrix_products(family):
    model_config, P, L = design_of(family), 3, 64
    definition, params = define(model_config)
    rows = abstract_batch(P, L, 1, 3, Loss(mse, "none"), 0, 0).rows
    program = jax.make_jaxpr(packed_embed(definition))(params, rows)
    found = products(program.jaxpr)
    pooling = found - forward_flops(params, model_config.encoder, P, L)
    # What is left is the mean over tokens and the Dense modules after it, for each slot of a row.
    T = L // 4
    dense = sum(leaf.size for leaf in jax.tree.leaves(params.get("heads", {})) if leaf.ndim == 2)
    rest = {2 * P * T * (pooled + dense) for pooled in (0, L * model_config.encoder.hidden_size)}
    assert pooling in rest


def test_flops_by_hand():
    """Tiny BERT: D 32, F 64, 2 layers; a row of 64 tokens."""
    model_config = design_of("bert")
    params = define(model_config)[1]
    a_token = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 64) + 4 * 64 * 32
    assert forward_flops(params, model_config.encoder, 1, 64) == 2 * 64 * a_token


def test_the_compilers_count_is_near():
    """XLA counts the rest too (norms, GELU, softmax): at BERT's widths the products are nearly all."""
    model_config = design_of("bert")
    config = replace(
        model_config.encoder, hidden_size=384, num_attention_heads=12, intermediate_size=1536, num_hidden_layers=1
    )
    definition, params = define(replace(model_config, encoder=config))
    rows = abstract_batch(8, 64, 1, 8, Loss(mse, "none"), 0, 0).rows
    lowered = jax.jit(packed_embed(definition)).lower(params, rows)
    assert 1 < lowered.cost_analysis()["flops"] / forward_flops(params, config, 8, 64) < 1.15


def test_a_plan_of_a_small_run():
    model_config = design_of("bert")
    model_config = replace(model_config, encoder=replace(model_config.encoder, num_hidden_layers=1))
    config = TrainConfig(("x",), batch_size=8, max_steps=10, dropout=False)  # which compiles faster
    found = plan(model_config, config, SIAMESE, texts=3, max_length=64, mesh=data_mesh(1))
    real = load_pretrained(tiny("bert")).params
    del real["encoder"]["blocks"][1]
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(real)]
    assert found.step.parameters * 4 == found.step.parameter_bytes == sum(sizes)
    # AdamW: two of each, and the counts of the two parts that count.
    assert found.step.optimizer_bytes == 2 * sum(sizes) + 2 * 4
    assert (found.step.rows, found.step.length, found.negatives) == (24, 64, 15)
    assert found.step.flops == 3 * forward_flops(define(model_config)[1], model_config.encoder, 24, 64)
    # A gradient at least, and more for more examples.
    assert found.activation_bytes > sum(sizes) and found.bytes_per_example > 0
    assert (
        found.largest_batch(found.bytes) == 8 and found.largest_batch(found.bytes + 10 * found.bytes_per_example) == 18
    )
    assert found.largest_batch(0) == 0
    text = "\n".join(found.lines(1.0))
    assert all(name in text for name in CHIPS) and "15 for each anchor" in text and "40% of the bfloat16 peak" in text
    assert f"batch in 1 GiB per device: {found.largest_batch(GIB):,}" in text
    rate = found.rate(CHIPS["H100"], mfu=0.5)
    assert rate * found.step.flops / 8 == pytest.approx(989e12 / 2)


def test_memory_is_a_straight_line_through_two_batches(monkeypatch):
    """A compiler whose programs take 1,000 bytes and 7 per example."""
    compiled = []

    def lower(state, batch, numbers):
        B = batch.index_SB.shape[1]
        compiled.append(B)
        memory = SimpleNamespace(temp_size_in_bytes=1000 + 7 * B)
        return SimpleNamespace(compile=lambda: SimpleNamespace(memory_analysis=lambda: memory))

    monkeypatch.setattr(planning, "compiled_step", lambda *settings: SimpleNamespace(lower=lower))
    model_config, config = design_of("bert"), TrainConfig(("x",), batch_size=8)
    found = plan(model_config, config, SIAMESE, texts=2, max_length=64, mesh=data_mesh(1))
    assert compiled == [8, 4] and found.activation_bytes == 1056 and found.bytes_per_example == 7
    fixed = found.step.parameter_bytes + found.step.optimizer_bytes
    assert found.largest_batch(fixed + 1000 + 7 * 20) == 20 and found.largest_batch(fixed + 1000 + 7 * 20 - 1) == 19
    chunked = plan(model_config, replace(config, chunk_size=4), SIAMESE, texts=2, max_length=64, mesh=data_mesh(1))
    assert chunked.step.flops * 3 == found.step.flops * 4
    scored = replace(config, loss="margin_mse", batch_size=1)
    assert plan(model_config, scored, SIAMESE, texts=4, max_length=64, mesh=data_mesh(1)).negatives is None
    assert compiled[-2:] == [1, 2]


def test_the_command_reads_no_weights(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny("bert").rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.relative_to(tiny("bert"))).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(tiny("bert"))).write_bytes(file.read_bytes())
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\tnegative\na\tb\tc\n")
    monkeypatch.setattr(plans, "plan", lambda *args, **kwargs: planned.append((args, kwargs)) or Nothing())
    planned = []

    class Nothing:
        def lines(self, memory):
            return [f"memory {memory}"]

    command = ["train", str(folder), str(tmp_path / "run"), "--data", str(data), "--plan", "--memory", "16"]
    assert main([*command, "--max-seq-length", "20", "--recipe", "all", "--batch-size", "64"]) == 0
    assert capsys.readouterr().out == "memory 16.0\n"
    (model_config, config, way), options = planned[0]
    assert model_config == design_of("bert") and way is SIAMESE
    assert (
        config.batch_size == 64
        and config.warmup_steps == 500
        and config.loss_options["partition_mode"] == "per_direction"
    )
    assert options["texts"] == 3 and options["max_length"] == 20
    assert not (tmp_path / "run").exists()
    assert main([*command[:-3], "--memory", "16"]) == 2
    assert "without --plan" in capsys.readouterr().err
    assert main([*command, "--recipe", "cake"]) == 2
    assert "recipe is 'cake'. Expected one of all" in capsys.readouterr().err


def test_a_static_model_has_no_rate(tmp_path, capsys):
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\na\tb\nc\td\n")
    assert main(["train", str(tiny("static")), str(tmp_path / "run"), "--data", str(data), "--plan"]) == 0
    assert "rate        not planned: a static model" in capsys.readouterr().out
