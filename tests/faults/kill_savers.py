"""Kill a process that saves one folder and one file over and over, at random moments; what stands must always be whole.

python tests/faults/kill_savers.py [--kills 200]        under a minute

The folder's files and the file all hold the number of the save; a reader that finds two numbers, or none, has found half a
save. (A training run is killed by tests/training/kills.py.)
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from minisbert.atomic_write import staged_folder, whole_file
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors

FILES = ("config.json", "modules.json", "tokenizer.json")


def save_for_ever(folder: Path) -> None:
    """Number after number, until the process is killed."""
    for number in range(10**9):
        with staged_folder(folder / "model") as staging:
            for name in FILES:
                (staging / name).write_text(json.dumps(number))
            write_tensors(staging / "model.safetensors", {"x": np.full(20_000, number, np.int32)})
        with whole_file(folder / "embeddings.npy") as temporary, temporary.open("wb") as out:
            np.save(out, np.full(20_000, number, np.int32))


def whole(folder: Path) -> int:
    """The number of the save that stands.

    Raises:
        AssertionError: none does, or parts of two.
    """
    numbers = {json.loads((folder / "model" / name).read_text()) for name in FILES}
    numbers |= set(SafetensorsFiles(folder / "model").read("x").tolist())
    assert len(numbers) == 1, numbers
    assert len(set(np.load(folder / "embeddings.npy").tolist())) == 1
    return numbers.pop()


def kill(folder: Path, rng: random.Random) -> int:
    """Start the saver, kill it once it is saving, look at what stands."""
    process = subprocess.Popen([sys.executable, __file__, "--saver", str(folder)])
    file = folder / "embeddings.npy"
    before = file.stat().st_mtime_ns if file.exists() else None
    while not file.exists() or file.stat().st_mtime_ns == before:  # until this process saves
        assert process.poll() is None, "the saver ended by itself"
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.3))
    process.kill()
    process.wait()
    return whole(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--saver", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.saver:
        save_for_ever(Path(options.saver))
    rng, saves = random.Random(0), 0
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.kills):
            saves += kill(Path(scratch), rng)
    print(f"{options.kills} kills in {saves} saves: a complete model folder and a complete file after each")


if __name__ == "__main__":
    main()
