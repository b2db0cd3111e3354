"""The process of one contestant of bench.py.

    python tests/benchmarks/bench_worker.py "openvino b128 bfloat16" MODEL_FOLDER WORKPLACE

It answers each line on stdin, a request, with one line on stdout, both JSON, so that the libraries share neither threads nor
memory.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_peers import CONTESTANTS, Contestant, Loaded
from bench_training import PAIRS, Step


def serve(contestants: Sequence[Contestant], argv: Sequence[str]) -> int:
    """Answer requests until stdin ends.

    A request {"prepare": true} converts; {"texts": FILE, "each": bool, "save": FILE or null} embeds the JSON list of
    texts, in one call or each by itself, and answers with the seconds of each call; with "train" it takes them as pairs
    and answers with the seconds of each step. An error is an answer too.

    Args:
        contestants: searched for the key.
        argv: the contestant's key, the model folder, and a folder for the library.
    """
    key, folder, workplace = argv[0], Path(argv[1]), Path(argv[2])
    # What libraries print goes to stderr: stdout is for answers only.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    contestant = next(one for one in contestants if one.key == key)
    loaded = step = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request.get("prepare"):
                answer: dict[str, Any] = {}
                if contestant.prepare:
                    contestant.prepare(folder, workplace)
            elif request.get("train"):
                assert contestant.trainer is not None
                step = step or contestant.trainer(folder)
                answer = _train(step, request)
            else:
                loaded = loaded or contestant.load(folder, workplace)
                answer = {**_embed(loaded, request), "device": loaded.device}
            answer |= {"peak_mib": peak_mib(), "device_mib": device_mib()}
        except Exception as error:  # whatever a library raises becomes one line of the report, and the others continue
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def _embed(loaded: Loaded, request: dict[str, Any]) -> dict[str, Any]:
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    calls = [[text] for text in texts] if request.get("each") else [texts]
    seconds, embeddings = [], []
    for call in calls:
        started = time.perf_counter()
        embeddings.append(loaded.encode(call))
        seconds.append(time.perf_counter() - started)
    if request.get("save"):
        import numpy as np

        np.save(request["save"], np.concatenate(embeddings).astype(np.float32))
    return {"seconds": seconds}


def _train(step: Step, request: dict[str, Any]) -> dict[str, Any]:
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    seconds = []
    batch = 2 * request.get("pairs", PAIRS)
    for start in range(0, len(texts), batch):
        started = time.perf_counter()
        step(texts[start : start + batch])
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def peak_mib() -> float:
    """The most memory this process has held.

    Example:
        >>> peak_mib() > 1
        True
    """
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux it begins with the size of the process that started this one.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)  # bytes on macOS, else KiB


def device_mib() -> float | None:
    """The most memory that this process has held on its accelerator; None on a CPU."""
    jax, torch = (sys.modules.get(name) for name in ("jax", "torch"))
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1024**2
    if jax is not None and torch is None and jax.default_backend() != "cpu":
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1024**2
    return None


if __name__ == "__main__":
    sys.exit(serve(CONTESTANTS, sys.argv[1:]))
