"""Run by test_exact.py with eight virtual devices: search over all of them finds the same rows as sorting everything."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from minisbert.errors import InputError
from minisbert.search import exact, top_k
from minisbert.search.exact import nearest

exact.NUMPY_PRODUCTS = 0  # all searches on the devices
used = set()
compiled = top_k.update_top_k


def watched(*arguments, **options):
    found = compiled(*arguments, **options)
    used.update(found[0].devices())
    return found


top_k.update_top_k = watched


def spread(rows, *axes):
    names = ("x", "y") if len(axes) > 1 and None not in axes else ("x",)
    shape = (4, 2) if len(names) == 2 else (8,)
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))
    return jax.device_put(rows, NamedSharding(mesh, PartitionSpec(*axes)))


def main() -> None:
    rng = np.random.default_rng(0)
    # Small whole numbers are exact in float32, so that nearly every score is tied, within a device and across.
    corpus, queries = (rng.integers(-2, 3, (n, 16)).astype(np.float32) for n in (1600, 9))
    path = Path(sys.argv[1]) / "corpus.npy"
    np.save(path, corpus)
    scores = queries @ corpus.T
    expected = np.argsort(-scores, axis=1, kind="stable")
    homes = {
        "host": corpus,
        "file": path,
        "rows over the mesh": spread(corpus, "x"),
        "copies": spread(corpus),
        "columns over the mesh": spread(corpus, None, "x"),
        "both": spread(corpus, "x", "y"),
    }
    report = {}
    for name, where in homes.items():
        used.clear()
        # 300: more than the 200 rows of one device. Each k is compiled for each device.
        for k in (10, 300) if name == "rows over the mesh" else (10,):
            hits = nearest(queries, where, k, similarity="dot", chunk_rows=64)
            assert (hits.rows_BK == expected[:, :k]).all(), (name, k)
            assert (hits.scores_BK == np.take_along_axis(scores, hits.rows_BK, axis=1)).all(), (name, k)
        report[name] = len(used)
    used.clear()
    with jax.default_device(jax.devices()[3]):  # the searching threads keep to the device of the caller's
        nearest(queries, corpus, 10, chunk_rows=64)
    assert used == {jax.devices()[3]}, used
    odd = nearest(queries, corpus[:77], 10, similarity="dot", chunk_rows=16)  # fewer chunks than devices
    assert (odd.rows_BK == np.argsort(-scores[:, :77], axis=1, kind="stable")[:, :10]).all()
    bad = corpus.copy()
    bad[1234, 3] = np.nan
    for where in (bad, spread(bad, "x")):
        try:
            nearest(queries, where, 10, similarity="dot", chunk_rows=64)
        except InputError as error:
            assert "corpus[1234] contains NaN" in str(error), error
        else:
            raise AssertionError("NaN was let in")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
