"""accelerator.py --tiny: the whole on a CPU, models and all, in a process that has neither network nor tyro."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("accelerator.py")
# Hides an installed tyro from every process that Python starts with this folder on its path.
NO_TYRO = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tyro":
            raise ModuleNotFoundError("No module named 'tyro'", name="tyro")

sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parity
@pytest.mark.nightly
def test_the_whole_on_a_cpu(tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(NO_TYRO)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "hidden"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), "--tiny", "--rounds", "1", str(tmp_path / "out")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    record = json.loads((tmp_path / "out/accelerator.json").read_text())
    assert record["outside"] == [] and set(record["models"]) == {"MiniLM", "MPNet"}
    for name, counts in (("MiniLM", {"short": 5, "long": 2, "train": 6}), ("MPNet", {"short": 2})):
        model = record["models"][name]
        assert model["left_out"] == {} and set(model["measures"]) == set(counts)
        for workload, count in counts.items():
            rows = model["measures"][workload]["contestants"]
            assert len(rows) == count and all(row["spread"]["median"] > 0 for row in rows.values())
    assert all(0 < len(found) <= 10 for found in record["models"]["MiniLM"]["costliest"].values())
    text = (tmp_path / "out/accelerator.txt").read_text()
    assert "of matrix rate" in text and "costliest operations of minisbert bfloat16, encode" in text
    assert (tmp_path / "out/accelerator.png").read_bytes().startswith(b"\x89PNG")
