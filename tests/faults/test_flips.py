"""A few random bit flips in each kind of file that minisbert writes; flips.py does a thousand."""

import pytest
from flips import KINDS, run


@pytest.mark.parametrize("name", KINDS)
def test_no_flip_is_silent(name):
    counts, silent = run(8, seed=1, kinds={name: KINDS[name]})
    assert not silent and counts.total() == 8


def test_damage_that_a_reader_does_not_see_is_silent():
    kind = KINDS["index"]
    blind = type(kind)(kind.make, lambda folder: [path.read_bytes() for path in sorted(folder.iterdir())])
    _, silent = run(3, kinds={"blind": blind})
    assert len(silent) == 3
