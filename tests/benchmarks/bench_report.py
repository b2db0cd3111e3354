"""The results of bench.py: figures, ratios, differences of the embeddings, the machine, the table.

The record is made once, from plain numbers; the table, the JSON file and the plot show it.
"""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench_training import PAIRS

from minisbert.commands.tables import columns

# Packages whose versions affect the figures.
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "tokenizers", "torch", "transformers", "sentence-transformers") + (
    *("onnxruntime", "openvino", "ctranslate2"),
)
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
# Rows of the all-pairs score matrix that is compared: enough to find the worst, few enough to be quick.
COMPARED = 500


class Measure(NamedTuple):
    """A figure per round, computed from what one run measured in it."""

    run: str
    title: str
    unit: str
    higher_is_better: bool
    figure: Callable[[Sequence[float]], float]
    digits: int


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between neighbours, as NumPy's default.

    Example:
        >>> percentile([4, 1, 2, 3], 50), percentile([10, 20], 95)
        (2.5, 19.5)
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def measures(texts: Mapping[str, Sequence[str]]) -> dict[str, Measure]:
    """The measures of these workloads, by name."""
    counts = {workload: len(some) for workload, some in texts.items()}
    every = {
        "short": Measure("short", "short sentences", "per s", True, lambda s: counts["short"] / sum(s), 1),
        "long": Measure("long", "long texts", "per s", True, lambda s: counts["long"] / sum(s), 1),
        "one p50": Measure("one", "one sentence, p50", "ms", False, lambda s: 1000 * percentile(s, 50), 2),
        "one p95": Measure("one", "one sentence, p95", "ms", False, lambda s: 1000 * percentile(s, 95), 2),
        "cold": Measure("cold", "process start to first vector", "s", False, sum, 2),
        "cold empty": Measure(
            "cold empty", "process start to first vector, compilation caches empty", "s", False, sum, 2
        ),
        "train": Measure(
            "train",
            f"training on pairs, multiple negatives ranking, batch {PAIRS}",
            "pairs per s",
            True,
            lambda s: counts["train"] / 2 / sum(s),
            1,
        ),
        "memory": Measure("memory", "peak memory of a short run", "MiB", False, sum, 0),
    }
    return {name: measure for name, measure in every.items() if measure.run.split()[0] in texts}


class Spread(NamedTuple):
    """A figure of several rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum.

    Example:
        >>> spread([3, 1, 2])
        Spread(median=2, low=1, high=3)
    """
    return Spread(median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """minisbert / other, round by round.

    Example:
        >>> ratios([10, 12], [5, 4])
        [2.0, 3.0]
    """
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def differences(embeddings: Mapping[str, Path], references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Largest differences of each contestant's embeddings and scores from those of the first reference that is there.

    Args:
        embeddings: key -> file of float32 `[texts, dimension]`.
        references: keys, the best first.

    Returns:
        key -> the reference, the largest difference of a value in the embeddings, and of a cosine between two texts;
        None where the shapes differ or a number is not finite.
    """
    import numpy as np

    reference = next((key for key in references if key in embeddings), None)
    if reference is None:
        return {}

    def read(key: str) -> "tuple[np.ndarray, np.ndarray]":
        embedding_BD = np.load(embeddings[key], allow_pickle=False).astype(np.float64)
        some_MD = embedding_BD[:COMPARED]
        unit_MD = some_MD / np.maximum(np.linalg.norm(some_MD, axis=1, keepdims=True), 1e-12)
        return embedding_BD, unit_MD @ unit_MD.T

    expected_BD, expected_MM = read(reference)
    found = {}
    for key in embeddings:
        embedding_BD, score_MM = read(key)
        comparable = embedding_BD.shape == expected_BD.shape and np.isfinite(embedding_BD).all()
        found[key] = {
            "reference": reference,
            "embedding": float(np.abs(embedding_BD - expected_BD).max()) if comparable else None,
            "score": float(np.abs(score_MM - expected_MM).max()) if comparable else None,
        }
    return found


def measure_record(measure: Measure, raw: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """The part of the record about one measure.

    Args:
        measure: the measure to record.
        raw: key -> round -> measurements. A key ends in its dtype.

    Returns:
        a dict for JSON: each contestant's figures with its ratios to minisbert of the same dtype, and the best other
        library of each dtype.
    """
    rows: dict[str, Any] = {}
    for key, rounds in raw.items():
        figures = [measure.figure(values) for values in rounds]
        rows[key] = {"dtype": key.split()[-1], "figures": figures, "spread": spread(figures)._asdict(), "ratios": None}
    for row in rows.values():
        ours = rows.get(f"minisbert {row['dtype']}")
        if ours is not None and row is not ours:
            each = ratios(ours["figures"], row["figures"])
            row["ratios"] = {"each": each, **spread(each)._asdict()}
    best = {}
    for dtype in {row["dtype"] for row in rows.values()}:
        peers = [key for key, row in rows.items() if row["dtype"] == dtype and not _is_ours(key)]
        if peers:
            choose = max if measure.higher_is_better else min
            best[dtype] = choose(peers, key=lambda key: rows[key]["spread"]["median"])
    return {
        "title": measure.title,
        "unit": measure.unit,
        "better": "higher" if measure.higher_is_better else "lower",
        "contestants": rows,
        "best_peer": best,
    }


def operations(folder: Path, tokens: float) -> float | None:
    """Multiplications and additions in the matrix products of one text; None where config.json has no such numbers."""
    from minisbert.checkpoint.folder import read_folder

    config = read_folder(folder).config
    try:
        width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    except KeyError:
        return None
    per_token = 4 * width * width + 2 * width * inner + 2 * tokens * width  # projections, feed-forward, attention
    return float(2 * layers * per_token * tokens)


def _is_ours(key: str) -> bool:
    return key.startswith("minisbert ")


def table(
    record: Mapping[str, Any], digits: int, differ: Mapping[str, Mapping[str, Any]], whole: Mapping[str, float]
) -> list[str]:
    """One measure as lines of text; a star marks the best other library of each dtype.

    Args:
        record: from `measure_record`.
        digits: of its figures, after the point.
        differ: from `differences`, or empty.
        whole: dtype -> the figure if nothing but the matrix products took time, or empty.
    """
    better = record["better"]
    header = ["", "contestant", "dtype", record["unit"], "min .. max", "minisbert / it", "min .. max"]
    if whole:
        header += ["of matrix rate"]
    if differ:
        header += ["embedding differs", "score differs"]
    rows = [header]
    for key, row in record["contestants"].items():
        own, ratio = row["spread"], row["ratios"]
        star = "*" if record["best_peer"].get(row["dtype"]) == key else ""
        cells = [star, key.removesuffix(f" {row['dtype']}"), row["dtype"], f"{own['median']:.{digits}f}"]
        cells.append(f"{own['low']:.{digits}f} .. {own['high']:.{digits}f}")
        cells += [f"{ratio['median']:.2f}x", f"{ratio['low']:.2f} .. {ratio['high']:.2f}"] if ratio else ["", ""]
        if whole:
            cells += [f"{own['median'] / whole[row['dtype']]:.0%}"]
        if key in differ:
            cells += _difference_cells(key, differ[key])
        rows.append(cells + [""] * (len(header) - len(cells)))
    return [f"{record['title']}, {record['unit']} ({better} is better)", *columns(rows)]


def _difference_cells(key: str, found: Mapping[str, Any]) -> list[str]:
    if found["reference"] == key:
        return ["reference", ""]
    if found["embedding"] is None:
        return ["not comparable", ""]
    return [f"{found['embedding']:.1e}", f"{found['score']:.1e}"]


def mean_tokens(folder: Path, texts: Sequence[str]) -> float:
    """Tokens per text, special tokens included, up to the model's maximum length."""
    from tokenizers import Tokenizer

    from minisbert.checkpoint.folder import read_folder

    model = read_folder(folder)
    tokenizer = Tokenizer.from_file(str(model.transformer_path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    limit = model.max_seq_length or sys.maxsize
    return sum(min(len(encoding.ids), limit) for encoding in tokenizer.encode_batch(list(texts))) / len(texts)


def machine() -> dict[str, Any]:
    """The machine that the figures were measured on."""
    model, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name == "model name":
                model = value
            elif name == "flags":
                flags = set(value.split())
    pages = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    known = all(page in getattr(os, "sysconf_names", {}) for page in pages)
    memory = os.sysconf(pages[0]) * os.sysconf(pages[1]) if known else 0
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "cpu": model,
        "cores": len(usable),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(memory / 1024**3, 1),
        "system": platform.platform(),
        # 0 means that the machine was idle.
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python, minisbert and the installed libraries."""
    from minisbert import __version__

    found = {package: installed_version(package) for package in PACKAGES}
    ours = {"python": sys.version.split()[0], "minisbert": __version__}
    return ours | {package: version for package, version in found.items() if version}


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
