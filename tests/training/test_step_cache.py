"""training/step_cache.py: programs are compiled before the first step, batches are padded to them, new shapes are reported."""

from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert.errors import InputError, TrainingError
from minisbert.text.packing import pack, packed_shape
from minisbert.training.config import RECIPES, TrainConfig
from minisbert.training.optimizer import optimizer_for
from minisbert.training.siamese import TrainBatch
from minisbert.training.step_cache import StepCache, sampled_steps
from minisbert.training.targets import Targets

PADDING = 9
STATE = namedtuple("State", "step")(41)


def batch_of(*lengths, multiple=1):
    rows, _ = pack([[1] * length for length in lengths], padding_id=PADDING, multiple=multiple)
    zeros_PT = np.zeros(rows.lengths_PT.shape, np.int32)
    return TrainBatch(rows, zeros_PT.astype(np.uint32), zeros_PT, np.zeros((1, 2), np.int32), Targets())


class Step:
    """Counts what is compiled, as jax.jit would."""

    def __init__(self):
        self.compiled = []

    def lower(self, state, batch):
        shape = batch.rows.token_ids_PL.shape

        def run(state, batch):
            assert batch.rows.token_ids_PL.shape == shape
            return shape

        return SimpleNamespace(compile=lambda: self.compiled.append(shape) or run)


def test_programs_are_compiled_ahead_and_batches_padded_to_them():
    step = Step()
    programs = StepCache(step, padding_id=PADDING, on_new_shape="error")
    programs.warm_up(STATE, [batch_of(*[60] * 5), batch_of(*[60] * 5), batch_of(*[60] * 10)])
    assert step.compiled == [(5, 64), (10, 64)]
    # 10 is more than a quarter above 7, but not above 8 rows.
    assert [len(programs.pad_to_known_shape(batch_of(*[60] * n)).examples_PT) for n in (4, 5, 7, 8, 10)] == [
        5,
        5,
        7,
        10,
        10,
    ]
    assert programs(STATE, batch_of(*[60] * 5)) == (5, 64) and len(step.compiled) == 2
    assert "2 programs compiled in" in programs.log() and "5 x 64" in programs.log()


def test_a_short_run_compiles_few_shapes():
    """13 holds 11 to 13 with a quarter of padding, 10 the 9; 5 is far from both."""
    step = Step()
    programs = StepCache(step, padding_id=PADDING, on_new_shape="error")
    batches = [batch_of(*[60] * rows) for rows in (9, 10, 13, 5, 11, 12)]
    programs.warm_up(STATE, batches, few=True)
    assert step.compiled == [(13, 64), (10, 64), (5, 64)]
    assert [len(programs.pad_to_known_shape(batch).examples_PT) for batch in batches] == [10, 10, 13, 5, 13, 13]


def test_a_new_shape_is_an_error_or_compiled(caplog):
    caplog.set_level("INFO")
    step = Step()
    programs = StepCache(step, padding_id=PADDING, on_new_shape="error")
    programs.warm_up(STATE, [batch_of(60, 60)])
    with pytest.raises(TrainingError, match=r"step 42: its batch packs into 3 rows of 64 tokens.*programs for 2 x 64"):
        programs(STATE, batch_of(60, 60, 60))
    assert step.compiled == [(2, 64)]
    programs = StepCache(step, padding_id=PADDING)  # on one host's processor
    assert programs(STATE, batch_of(60, 100)) == (2, 128)
    assert "2 rows of 128 tokens, a new shape; compiled 2 x 128 (" in caplog.text
    assert "Nothing needs to be done" in caplog.text
    assert "during the run" in programs.log()


def test_other_targets_are_another_program():
    step = Step()
    programs = StepCache(step, padding_id=PADDING, on_new_shape="error")
    plain = batch_of(60, 60)
    programs.warm_up(STATE, [plain])
    with pytest.raises(TrainingError, match="2 rows of 64"):
        programs(STATE, plain._replace(targets=Targets(labels_B=np.zeros(2, np.int32))))


def test_padding_a_batch_gives_what_pack_gives():
    lengths = [30, 20, 60, 12]
    more, packed = batch_of(*lengths).pad_to(8, 64, PADDING), batch_of(*lengths, multiple=8)
    jax.tree.map(np.testing.assert_array_equal, more, packed)
    assert more.rows.token_ids_PL.dtype == packed.rows.token_ids_PL.dtype
    assert packed.pad_to(8, 64, PADDING) is packed


@pytest.mark.parametrize(
    ("texts", "length", "multiple"), [(1, 1, 1), (40, 64, 1), (33, 20, 8), (50, 3, 1), (9, 200, 4)]
)
def test_the_shape_of_the_longest_texts(texts, length, multiple):
    assert (
        packed_shape(texts, length, multiple) == batch_of(*[length] * texts, multiple=multiple).rows.token_ids_PL.shape
    )


def test_the_sample_is_spread_over_the_run():
    assert sampled_steps(5) == [0, 1, 2, 3, 4] and sampled_steps(1) == [0]
    many = sampled_steps(1_000_000)
    assert len(many) == 32 and many[0] == 0 and many[-1] == 999_999


def test_the_weights_change_at_each_kth_step_by_the_mean():
    config = TrainConfig(("x",), accumulate=2, warmup_steps=2, learning_rate=1.0, clip_norm=1e9, weight_decay=0.0)
    rates, recipe, numbers, steps = optimizer_for(config, 9)
    optimizer = recipe(numbers)
    assert steps == 8 and [rates(step) for step in range(8)] == [0, 0, 0.5, 0.5, 1, 1, 0.5, 0.5]
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    moved = []
    for gradient in (1.0, 3.0, 4.0, -4.0, 1.0, 3.0):
        updates, state = optimizer.update({"w": jnp.full(1, gradient)}, state, params)
        moved.append(float(updates["w"][0]))
    assert moved[0] == moved[2] == moved[4] == 0 and moved[1] == 0  # the rate is still 0
    # Adam's first and second change: means 2, then 0. m = (0.2 * 0.9 + 0) / 0.19, v = (0.004 * 0.999 + 0) / 0.001999.
    assert moved[3] == pytest.approx(-0.5 * (0.18 / 0.19) / np.sqrt(0.003996 / 0.001999), rel=1e-4)
    assert optimizer_for(replace(config, max_steps=5), 9)[3] == 4
    with pytest.raises(InputError, match="accumulate is 2, but the run has 1 steps"):
        optimizer_for(config, 1)


def test_a_run_that_ends_before_max_steps_says_why(caplog):
    caplog.set_level("INFO")
    assert optimizer_for(TrainConfig(("x",), max_steps=3, epochs=2), 2)[3] == 2
    assert "max_steps is 3, but the data ends after 2 steps: 2 epoch(s) in batches of 16. For more" in caplog.text
    caplog.clear()
    assert optimizer_for(TrainConfig(("x",), max_steps=3), 3)[3] == 3 and not caplog.text


def test_the_recipe_of_the_all_models():
    config = TrainConfig(("x",), **RECIPES["all"])
    rates, _, _, steps = optimizer_for(config, 100_000)
    assert steps == 100_000 and config.batch_size == 1024
    assert [rates(step) for step in (0, 250, 500, 50_250, 100_000)] == pytest.approx([0, 1e-5, 2e-5, 1e-5, 0], rel=1e-5)
