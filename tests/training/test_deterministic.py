"""training/deterministic.py on one device: the gradient of the whole batch, and one tree of sums for any number of devices.

That the bits are the same on several devices is in test_sharding.py (a part) and many_devices.py (everything).
"""

import re

import jax
import numpy as np
import pytest
from many_devices import Bench, apart

from minisbert.errors import InputError
from minisbert.training.deterministic import add_term, blockwise, check_blocks


@pytest.fixture(scope="module")
def bench():
    """Few losses, in float64, where only a different formula would show. Without dropout, which compiles faster."""
    return Bench(dtype="float64", quick=True, dropout=False)


# Sums in another order leave 1e-15.
FLOAT64 = 1e-12


def test_it_is_the_gradient_of_the_whole_batch(bench):
    one, _ = bench.run("plain", "replicated", 1)
    blocks, _ = bench.run("gradcache", "replicated", 1, deterministic=True)
    assert np.max(apart(one, blocks)) <= FLOAT64


@pytest.mark.parametrize("blocks", [1, 2, 8, 16])
def test_the_tree_of_sums_does_not_depend_on_the_devices(blocks):
    def tree(devices):
        def add(a, b):
            return f"({a}+{b})"

        sums = []
        for device in range(devices):
            own = []
            for block in range(device * blocks // devices, (device + 1) * blocks // devices):
                add_term(own, str(block), add)
            [(terms, of_device)] = own
            assert terms == blocks // devices
            add_term(sums, of_device, add)
        [(_, total)] = sums
        return total

    trees = {tree(devices) for devices in (1, 2, 4, 8, 16) if blocks % devices == 0}
    assert len(trees) == 1
    assert [int(n) for n in re.findall(r"\d+", trees.pop())] == list(range(blocks))


def test_blocks_that_devices_cannot_share_are_refused(bench):
    for blocks, devices, message in (
        (8, 3, "1, 2, 4, 8"),
        (6, 2, "1, 2, 4"),
        (8, 16, "8 blocks on 16"),
        (0, 1, "0 blocks"),
    ):
        with pytest.raises(InputError, match=message):
            check_blocks(blocks, devices)
    with pytest.raises(InputError, match="layout 'tensor'"):
        check_blocks(8, 2, "tensor")
    rows = len(bench.batches[0].examples_PT)
    gradient = blockwise(print, print, jax.devices()[:1], blocks=2 * rows)
    with pytest.raises(InputError, match=rf"{rows} packed rows for {2 * rows} blocks"):
        gradient({"model": {}}, bench.batches[0], None)
