"""`minisbert tune`: what it saves is what token_budget="tuned" loads, and a damaged file costs only speed."""

import json
from pathlib import Path

import numpy as np
import pytest

from minisbert import CrossEncoder, InputError, SentenceEncoder
from minisbert.commands.tune import tune
from minisbert.inference.token_budgets import (
    best_budget,
    budgets_file,
    cache_token_budget,
    cached_token_budgets,
    machine_and_model,
    token_rates,
)

WEIGHTS = Path(__file__).parents[2] / "weights"
USUAL = 512


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINISBERT_CACHE", str(tmp_path / "cache"))


def budget_of(name: str, token_budget="tuned", **options) -> int:
    return SentenceEncoder.load(WEIGHTS / name, token_budget=token_budget, **options).shapes.token_budget


def test_the_command_saves_what_tuned_loads(capsys, tmp_path):
    assert budget_of("tiny-bert") == USUAL
    texts = tmp_path / "texts.txt"
    texts.write_text("a man eats\na dog barks loudly\n" * 20)
    assert tune(str(WEIGHTS / "tiny-bert"), texts=str(texts), budgets=(48, 96), rounds=2, offline=True) == 0
    printed = capsys.readouterr()
    kept = json.loads(budgets_file().read_text())
    assert list(kept.values()) in ([48], [96]) and f"saved {next(iter(kept.values()))}" in printed.out
    assert "round 2 of 2" in printed.err
    assert budget_of("tiny-bert") in (48, 96)
    # Only "tuned" asks for it; each size of model and compute dtype has its own.
    assert budget_of("tiny-bert", token_budget=64) == 64 and budget_of("tiny-bert", token_budget=None) == USUAL
    assert budget_of("tiny-bert", compute_dtype="bfloat16") == budget_of("tiny-albert") == USUAL


def test_nothing_is_saved_without_keep(capsys):
    assert tune(str(WEIGHTS / "tiny-bert"), budgets=(512,), rounds=1, keep=False, offline=True) == 0
    assert not budgets_file().exists()


def test_each_model_has_its_own_budget_and_the_last_one_counts():
    cache_token_budget("a", 1)
    cache_token_budget("b", 2)
    cache_token_budget("a", 3)
    assert cached_token_budgets() == {"a": 3, "b": 2}


@pytest.mark.parametrize("content", ["{", "[1]", '{"x": "many"}', "\udcff"])
def test_a_damaged_file_costs_only_speed(content, caplog):
    cache_token_budget("a", 1)
    budgets_file().write_text(content, errors="surrogateescape")
    assert budget_of("tiny-bert") == USUAL
    assert content.startswith('{"x"') or "Remove the file" in caplog.text
    cache_token_budget("a", 5)
    assert cached_token_budgets() == {"a": 5}


def test_a_cross_encoder_takes_it_too():
    model = CrossEncoder.from_encoder(WEIGHTS / "tiny-bert").pretrained
    assert CrossEncoder(model, token_budget="tuned").shapes.token_budget == USUAL
    cache_token_budget(machine_and_model(model.model_config, "float32"), 77)
    assert CrossEncoder(model, token_budget="tuned").shapes.token_budget == 77


def test_the_budget_changes_nothing_but_the_speed():
    texts = [f"sentence {number} of some" + " words" * (number % 9) for number in range(100)]
    some, others = (SentenceEncoder.load(WEIGHTS / "tiny-bert", token_budget=budget) for budget in (64, 999))
    np.testing.assert_allclose(some.encode(texts), others.encode(texts), rtol=0, atol=2e-6)


def test_rates_and_the_choice():
    encoders = {budget: SentenceEncoder.load(WEIGHTS / "tiny-bert", token_budget=budget) for budget in (32, 64)}
    rates = token_rates(encoders, ["a b c", "d"], rounds=3)
    assert set(rates) == {32, 64} and all(len(each) == 3 and min(each) > 0 for each in rates.values())
    assert best_budget({1: [100.0], 2: [101.0], 3: [90.0]}) == 1
    assert best_budget({1: [97.0], 2: [100.0]}) == 2


def test_wrong_numbers_are_refused():
    encoders = {32: SentenceEncoder.load(WEIGHTS / "tiny-bert")}
    with pytest.raises(InputError, match="rounds is 0"):
        token_rates(encoders, ["a"], rounds=0)
    with pytest.raises(InputError, match="there are 0 texts"):
        token_rates(encoders, [])
    with pytest.raises(InputError, match="token_budget is 0"):
        budget_of("tiny-bert", token_budget=0)
    with pytest.raises(InputError, match=r"token_budget is 'fast'\. Expected .* 'tuned'"):
        budget_of("tiny-bert", token_budget="fast")
