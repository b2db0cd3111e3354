"""Seconds from `python sweep.py` to the table of six tiny runs, which differ in pooling and learning rate.

    python tests/benchmarks/sweep.py                          this checkout
    python tests/benchmarks/sweep.py --before ../other        and another checkout of the project, in turns, with the ratio
    python tests/benchmarks/sweep.py --poolings mean --rates 1e-5 2e-5 3e-5 4e-5 5e-5 6e-5

Each sweep is a process of its own, whose folder of compiled programs starts empty. It prints wall time and the
processor time of all threads; on a busy machine the second says more.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minisbert.download.locate import locate

HERE = Path(__file__).parents[2]
# What a user writes, with names that both checkouts have; until November 2026 three of them were others.
SWEEP = """
import json, pathlib, sys
from minisbert import SentenceEncoder
try:
    from minisbert import TrainConfig, train
    load = SentenceEncoder
except ImportError:
    from minisbert.training.config import TrainConfig
    from minisbert.training.loop import train
    load = SentenceEncoder.load
folder, data, models, rates, steps = json.loads(sys.argv[1])
for name, model in models.items():
    encoder = load(model)
    for rate in rates:
        config = TrainConfig((data,), batch_size=8, max_steps=steps, learning_rate=rate)
        train(encoder, config, pathlib.Path(folder, f"{name}-{rate}"), show_progress=False)
        last = [json.loads(line) for line in open(f"{folder}/{name}-{rate}/metrics.jsonl")][-1]
        print(f"{name:6} {rate:8} {last['loss']:.4f}", flush=True)
"""


def with_pooling(model: Path, pooling: str, folder: Path) -> Path:
    """A copy of the model's folder with another pooling."""
    shutil.copytree(model, folder)
    path = folder / "1_Pooling" / "config.json"
    modes = {name: name == f"pooling_mode_{pooling}" for name in json.loads(path.read_text()) if "mode" in name}
    path.write_text(json.dumps(json.loads(path.read_text()) | modes))
    return folder


def seconds(checkout: Path, arguments: list[object]) -> tuple[float, float]:
    """Wall time and processor time of a sweep with this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        command = [sys.executable, "-c", SWEEP, json.dumps([folder, *arguments])]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{checkout}: {done.stderr[-2000:]}")
        print(done.stdout, flush=True)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of the project")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="a name or folder")
    parser.add_argument("--poolings", nargs="+", default=["mean_tokens", "cls_token", "max_tokens"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-5, 3e-5])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    checkouts = {"this checkout": HERE} | ({} if options.before is None else {"before": options.before.resolve()})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        model = locate(options.model)
        models = {one: str(with_pooling(Path(model), one, Path(folder, one))) for one in options.poolings}
        arguments = [str(HERE / "docs" / "samples" / "pairs.tsv"), models, options.rates, options.steps]
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                found[name].append(seconds(checkout, arguments))
    medians = {name: [statistics.median(one) for one in zip(*times, strict=True)] for name, times in found.items()}
    print(f"{len(options.poolings) * len(options.rates)} runs of {options.steps} steps, {options.model}, {processor()}")
    for name, (wall, cpu) in medians.items():
        print(f"{name}: {wall:.0f} s, {cpu:.0f} s of processor time")
    if options.before is not None:
        wall, cpu = (now / then for now, then in zip(*medians.values(), strict=True))
        print(f"ratio: {wall:.2f} of the time, {cpu:.2f} of the processor time")


def processor() -> str:
    """The processor's name and how many of its cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
