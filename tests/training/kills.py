"""Kill a training run with SIGKILL repeatedly, rerun the same command, and compare the final weights.

    python tests/training/kills.py [--kills 30] [--in-save 10] [--seed 0]        a few minutes; 200 and 50: half an hour

`--in-save` of the kills come while a checkpoint is half written (orbax's temporary folder exists), the others at random
times. The weights of a run that finishes are compared with those of an uninterrupted run by sha256, and its folder must hold
the same names: no debris. Then the next begins. (Savers, shards, indexes and downloads: tests/faults/kill_savers.py.)
"""

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TINY_BERT = Path(__file__).parents[2] / "weights" / "tiny-bert"
STEPS = 60


def command(data: Path, folder: Path) -> list[str]:
    """The same command each time; it has no flag to resume."""
    settings = ["--max-steps", str(STEPS), "--checkpoint-every", "3", "--batch-size", "4", "--learning-rate", "1e-3"]
    return [sys.executable, "-m", "minisbert", "train", str(TINY_BERT), str(folder), "--data", str(data), *settings]


def weights(folder: Path) -> str:
    """The sha256 of the final weights."""
    return hashlib.sha256((folder / "final" / "model.safetensors").read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    """The files of a run but for those inside checkpoints, whose names are random."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.parent.name == "checkpoints" or "checkpoints" not in path.relative_to(folder).parts
    )


def half_written(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any("tmp" in path.name for path in (folder / "checkpoints").glob("*"))


def run_and_kill(data: Path, folder: Path, rng: random.Random, seconds: float, *, in_save: bool) -> bool:
    """Start the run and kill it within the time of a whole one. False if it finished before."""
    before = len(list((folder / "checkpoints").glob("*")))
    process = subprocess.Popen(command(data, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = None if in_save else time.monotonic() + rng.uniform(0.05, 1) * seconds
    while process.poll() is None:
        if (until and time.monotonic() > until) or (in_save and half_written(folder)):
            process.kill()
            process.wait()
            return True
        time.sleep(0.0005 if in_save else 0.02)
    if process.returncode:
        raise SystemExit(f"the run did not resume after {before} checkpoints:\n{process.stderr.read().decode()}")  # type: ignore[union-attr]
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--in-save", type=int, default=10, help="how many of them while a checkpoint is half written")
    parser.add_argument("--seed", type=int, default=0, help="other moments, so that many kills can be done in parts")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "pairs.tsv"
        words = "cat dog house river tree stone book train cloud horse lamp road".split()
        pairs = [f"the {a} and the {b}\ta {b} near a {a}" for a in words for b in words]
        data.write_text("\n".join(["anchor\tpositive", *pairs]) + "\n")
        undisturbed = Path(scratch) / "undisturbed"
        started = time.monotonic()
        subprocess.run(command(data, undisturbed), check=True, capture_output=True)
        seconds = time.monotonic() - started
        expected = weights(undisturbed)
        kills = saves = finished = 0
        folder = Path(scratch) / "killed"
        while kills < options.kills or folder.exists():
            in_save = (
                kills < options.kills
                and saves < options.in_save
                and (options.in_save - saves >= options.kills - kills or rng.random() < options.in_save / options.kills)
            )
            if kills < options.kills and run_and_kill(data, folder, rng, seconds, in_save=in_save):
                kills, saves = kills + 1, saves + in_save
                print(f"kill {kills}{' in a save' if in_save else ''}", flush=True)
                continue
            subprocess.run(command(data, folder), check=True, capture_output=True)
            if weights(folder) != expected:
                raise SystemExit(f"the final weights differ after {kills} kills")
            if left := set(names(folder)) ^ set(names(undisturbed)):
                raise SystemExit(f"the folder's names differ after {kills} kills: {sorted(left)}")
            finished += 1
            shutil.rmtree(folder)
        print(
            f"{kills} kills, {saves} of them in a save: {finished} runs finished, all bit-identical to the uninterrupted one, "
            "no debris"
        )


if __name__ == "__main__":
    main()
