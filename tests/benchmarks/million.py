"""Many sentences from a file into shards: memory, two kills, and the same bytes as an undisturbed run.

    python tests/benchmarks/million.py [--rows 1000000] [--model weights/tiny-bert] [--kills 2]

Prints, for a tenth of the rows and for all, the peak resident memory and the time per sentence; then kills the command at
random moments, reruns it, and compares every file.
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

WORDS = "the a cat dog house river tree stone book train cloud horse lamp road sees makes finds loses old new".split()


def write_corpus(path: Path, rows: int) -> None:
    """Sentences of 4 to 20 words, the same each time."""
    rng = random.Random(0)
    with path.open("w") as file:
        for row in range(rows):
            file.write(f"{row} {' '.join(rng.choices(WORDS, k=rng.randint(4, 20)))}\n")


def start(corpus: Path, model: str, out: Path) -> subprocess.Popen:
    """The command; the same each time."""
    command = [sys.executable, "-m", "minisbert", "encode", str(corpus), "--model", model, "--out", f"{out}/"]
    return subprocess.Popen(command)


def peak_of(process: subprocess.Popen) -> int:
    """Wait for the process; its peak resident memory in MiB."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) // 1024)
        except (OSError, IndexError):
            pass
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    return peak


def digests(folder: Path) -> dict[str, str]:
    """What must not differ."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", default=str(Path(__file__).parents[2] / "weights" / "tiny-bert"))
    parser.add_argument("--kills", type=int, default=2)
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        seconds = 0.0
        for rows in (options.rows // 10, options.rows):
            write_corpus(scratch / "corpus.txt", rows)
            shutil.rmtree(scratch / "undisturbed", ignore_errors=True)
            started = time.monotonic()
            peak = peak_of(start(scratch / "corpus.txt", options.model, scratch / "undisturbed"))
            seconds = time.monotonic() - started
            print(f"{rows} sentences: peak {peak} MiB, {1e6 * seconds / rows:.0f} us per sentence", flush=True)
        for _ in range(options.kills):
            process = start(scratch / "corpus.txt", options.model, scratch / "killed")
            time.sleep(rng.uniform(0.2, 0.6) * seconds)
            process.kill()
            process.wait()
            print(f"killed with {len(list((scratch / 'killed').glob('*.npy')))} shards written", flush=True)
        peak_of(start(scratch / "corpus.txt", options.model, scratch / "killed"))
        same = digests(scratch / "killed") == digests(scratch / "undisturbed")
        print(f"after {options.kills} kills: {'the same bytes' if same else 'DIFFERENT'}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
