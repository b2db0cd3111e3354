"""CONTRIBUTING's "Add a loss", done as it says: its blocks are put where they belong, and the loss is one like the others."""

import doctest
import shlex

import jax
import loss_cases
import numpy as np
import pytest
import test_loss_properties as properties
import test_losses as general
from documents import TINY, blocks, read, write_data

from minisbert.commands import main
from minisbert.reference import losses as reference
from minisbert.training import losses

FUNCTION, ROW, COMMAND, TWIN, CASE = (
    block.code
    for block in blocks("CONTRIBUTING.md")
    if read("CONTRIBUTING.md").splitlines().index("## Add a loss") < block.line
)


@pytest.fixture
def case(monkeypatch):
    """The loss in the table, its twin in reference/, and its case of the tests."""
    written: dict[str, object] = {"Loss": losses.Loss}
    exec(FUNCTION, written)
    for name, row in eval(f"{{{ROW}}}", written).items():
        monkeypatch.setitem(losses.LOSSES, name, row)
    exec(TWIN, vars(reference))
    (case,) = eval(f"[{CASE}]", vars(loss_cases))
    yield case.values
    delattr(reference, case.values[0])


def test_the_example_in_its_docstring(case):
    example = doctest.DocTestFinder(exclude_empty=False)
    function = losses.LOSSES[case[0]].function
    (found,) = example.find(function, function.__name__, module=False, globs=function.__globals__)
    assert found.examples
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0


@pytest.mark.parametrize(
    "check",
    [
        general.test_a_loss_and_its_gradient_are_the_twins,
        general.test_float32_goes_in_and_comes_out,
        general.test_matryoshka_is_the_weighted_sum_over_dimensions,
        properties.test_values_and_gradients_are_finite_where_a_formula_breaks,
        properties.test_the_order_of_the_batch_does_not_matter,
    ],
    ids=lambda check: check.__name__,
)
def test_it_passes_what_every_loss_must(case, check):
    check(*case)


def test_it_refuses_as_every_loss_does(case):
    general.test_the_table_says_how_many_texts_a_loss_takes(case[0])
    general.test_missing_and_misshapen_labels_are_refused(case[0])
    general.test_a_column_of_labels_is_not_spread_over_all_pairs(losses.LOSSES[case[0]])


def test_the_command_line_knows_it_by_name(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    static = str(TINY.with_name("tiny-static"))  # compiles in a second
    words = [static if word.startswith("all-M") else word for word in shlex.split(COMMAND)[1:]]
    assert words[words.index("--loss") + 1] == case[0]
    assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "runs/pearson/final/modules.json").exists()


def test_without_its_row_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    assert main([str(TINY) if word.startswith("all-M") else word for word in shlex.split(COMMAND)[1:]]) == 2
    assert "pearson" in capsys.readouterr().err


def test_a_wrong_gradient_would_be_found(case):
    """A slope that is stopped halfway gives the same value and another gradient."""
    name, texts, targets, head, options, twin = case
    row = losses.LOSSES[name]

    def half(embeddings_SBD, targets, head=None):
        return row.function(jax.lax.stop_gradient(embeddings_SBD) / 2 + embeddings_SBD / 2, targets, head)

    losses.LOSSES[name] = losses.Loss(half, row.needs, row.least_texts, row.most_texts)
    loss_cases.compiled.cache_clear()
    try:
        with pytest.raises(AssertionError):
            general.test_a_loss_and_its_gradient_are_the_twins(name, np.array(texts), targets, head, options, twin)
    finally:
        loss_cases.compiled.cache_clear()
