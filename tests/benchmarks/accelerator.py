"""minisbert and sentence-transformers in turns on a GPU or TPU, with models of random weights: one command, under 8 minutes.

    python tests/benchmarks/accelerator.py accelerator/          writes accelerator.json, .txt and .png into that folder
    python tests/benchmarks/accelerator.py --tiny accelerator/   two-layer models and few texts: two to four minutes on a CPU

It needs jax, flax, optax, torch and sentence-transformers, but no network, no downloaded model and no installed minisbert. It
makes models of the shape of MiniLM and MPNet and measures parity, encode (short and long texts), training steps
(with and without GradCache), memory, the share of the rate of one large product, and the ten costliest operations. What does
not fit into `--minutes` has fewer rounds or no profile.
"""

# ruff: noqa: E402

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT)]
try:
    import_module("tyro.conf")
except ModuleNotFoundError:  # settings are annotated with it; only the command line calls it
    fake = ModuleType("tyro"), ModuleType("tyro.conf")
    for name in ("arg", "Positional", "OmitArgPrefixes", "Suppress"):
        setattr(fake[1], name, {"arg": lambda **_: None}.get(name, Any))
    sys.modules |= {"tyro": fake[0], "tyro.conf": fake[1]}

from bench_peers import THROUGHPUT, Contestant, load_minisbert, load_sentence_transformers
from bench_report import differences, machine, mean_tokens, measure_record, measures, operations, table, versions
from bench_rounds import Race
from bench_training import minisbert_step, sentence_transformers_step
from bench_worker import serve
from profile_forward import matrix_rates

from minisbert.data.synthetic import make_sentences

# name -> a tiny checkpoint whose tokenizer and settings it takes, and its size: layers, width, heads, inner width, positions
MODELS = {"MiniLM": ("tiny-bert", 6, 384, 12, 1536, 512), "MPNet": ("tiny-mpnet", 12, 768, 12, 3072, 514)}
LIMITS = {"MiniLM": 256, "MPNet": 384}
VOCABULARY = 30_527
# Texts of each workload, pairs per step, texts per chunk of GradCache, and the sizes of the large product.
WORK = {"short": 8192, "long": 1024, "train": 4096}
PAIRS, CHUNK, PRODUCT = 256, 128, (8192, 8192, 8192)
TINY_WORK = {"short": 64, "long": 8, "train": 32}
TINY_PAIRS, TINY_CHUNK, TINY_PRODUCT = 8, 8, (256, 256, 256)
# Largest differences from sentence-transformers in float32 on the same device: of an embedding's number, by dtype.
PARITY = {"float32": 2e-5, "bfloat16": 2e-2}
# Published dense bfloat16 TFLOP/s, by what the device is called.
PEAKS = {
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L4": 121,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v6": 918,
    "TPU v4": 275,
}
REFERENCE = "sentence-transformers float32"


def contestants(chunk: int) -> list[Contestant]:
    """Both libraries in both dtypes; GradCache takes part in training only."""
    program, peer = (str(HERE), "--serve", str(chunk)), "sentence-transformers"
    ours = partial(Contestant, "minisbert", peer="minisbert", needs=("jax",), workloads=THROUGHPUT, program=program)
    theirs = partial(Contestant, peer, peer=peer, needs=("torch", peer), workloads=THROUGHPUT, program=program)
    found = []
    for dtype in ("float32", "bfloat16"):
        ours_load, ours_step = partial(load_minisbert, dtype=dtype), partial(minisbert_step, dtype=dtype)
        torch_load = partial(load_sentence_transformers, dtype=dtype, batch_size=128)
        torch_step = partial(sentence_transformers_step, dtype=dtype)
        found += [ours(dtype=dtype, load=ours_load, trainer=ours_step)]
        found += [theirs(dtype=dtype, load=torch_load, trainer=torch_step)]
    packed = partial(load_minisbert, dtype="bfloat16", packing=True)
    cached = {"dtype": "bfloat16", "workloads": ()}
    return [
        *found,
        replace(ours(dtype="bfloat16", load=packed), name="minisbert packed"),
        replace(ours(load=packed, trainer=partial(ours_step, chunk_size=chunk), **cached), name="minisbert gradcache"),
        replace(
            theirs(load=torch_load, trainer=partial(torch_step, chunk_size=chunk), **cached), name=f"{peer} gradcache"
        ),
    ]


def make_model(folder: Path, name: str, *, tiny: bool) -> Path:
    """A model folder of this shape with random weights, and a tokenizer that knows the words of the texts."""
    from safetensors.numpy import save_file

    from minisbert.checkpoint.convert import Converted, export, flatten, table_for
    from minisbert.checkpoint.folder import read_folder
    from minisbert.encoders import FAMILIES
    from minisbert.model_config import ModelConfig
    from minisbert.sentence_model import initial_params

    source, layers, width, heads, inner, positions = MODELS[name]
    copytree(ROOT / "weights" / source, folder)
    config = json.loads((folder / "config.json").read_text())
    size = (2, 64, 4, 128, 130) if tiny else (layers, width, heads, inner, positions)
    keys = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    config |= dict(zip(keys, size, strict=True)) | {"vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config))
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    pooling |= {"word_embedding_dimension": config["hidden_size"]}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    limit = 64 if tiny else LIMITS[name]
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    known = tokenizer["model"]["vocab"]
    for word in sorted({word for text in make_sentences(20_000) for word in text.lower().rstrip(".?!").split()}):
        known.setdefault(word, len(known))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(known, key=known.__getitem__)))
    model_config = ModelConfig.of(read_folder(folder))
    params = flatten(initial_params(model_config, 0)["encoder"])
    table = table_for(FAMILIES[model_config.model_type].RULES, model_config.encoder)
    save_file(export(Converted(params), table), folder / "model.safetensors")
    return folder


def texts_of(work: dict[str, int]) -> dict[str, list[str]]:
    """The texts of each workload; those to train on are four sentences each."""
    from bench import join_sentences

    sentences = make_sentences(max(work["short"], 4 * work["train"]))
    training = [" ".join(sentences[4 * i : 4 * i + 4]) for i in range(work["train"])]
    long = [f"{text} {text}" for text in join_sentences(sentences, work["long"])]
    return {"short": sentences[: work["short"]], "long": long, "train": training}


def costliest(folder: Path, tokens: int, pairs: int, count: int = 10) -> dict[str, list[tuple[str, float]]]:
    """The operations that take most time, in ms, of one encode call and one training step in bfloat16, from JAX's profiler."""
    import jax

    texts = make_sentences(max(tokens // 16, 2 * pairs))
    encode, step = load_minisbert(folder, folder, dtype="bfloat16").encode, minisbert_step(folder, dtype="bfloat16")
    found = {}
    for title, run in (("encode", lambda: encode(texts)), ("train", lambda: step(texts[: 2 * pairs]))):
        run()
        with TemporaryDirectory() as traces:
            with jax.profiler.trace(traces):
                run()
            found[title] = _by_operation(Path(traces))[:count]
    return found


def _by_operation(traces: Path) -> list[tuple[str, float]]:
    """The milliseconds of each operation in a trace, the costliest first: those of devices, on a CPU those of XLA's threads."""
    events = json.loads(gzip.decompress(next(traces.rglob("*.trace.json.gz")).read_bytes()))["traceEvents"]
    processes = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in events if event.get("name") == "thread_name"
    }
    devices = {pid for pid, name in processes.items() if name.startswith("/device:")}
    milliseconds: dict[str, float] = {}
    for event in events:
        thread = threads.get((event.get("pid"), event.get("tid")), "")
        of_device = event.get("pid") in devices and not thread.startswith(("Steps", "XLA Modules"))
        operation = event.get("ph") == "X" and "::" not in event["name"]  # not a part of the runtime
        if operation and (of_device or (not devices and "XLA" in thread)):
            milliseconds[event["name"]] = milliseconds.get(event["name"], 0) + event["dur"] / 1e3
    return sorted(milliseconds.items(), key=lambda item: -item[1])


def race(folder: Path, name: str, options: argparse.Namespace, until: float, say: Callable[[str], None]) -> Any:
    """Everything about one model, as a dict for JSON, and the lines of its tables."""
    tiny = options.tiny
    chunk, pairs = (TINY_CHUNK, TINY_PAIRS) if tiny else (CHUNK, PAIRS)
    texts, several = texts_of(TINY_WORK if tiny else WORK), contestants(chunk)
    if tiny:  # starting a library takes most of the time of tiny models
        several = [*several[:2], *(replace(each, workloads=each.workloads[:1]) for each in several[2:])]
        if name != "MiniLM":
            texts, several = {"short": texts["short"]}, several[:2]
    tokens = {workload: mean_tokens(folder, some) for workload, some in texts.items()}
    with get_context("spawn").Pool(1) as process:
        rates = process.apply(matrix_rates, TINY_PRODUCT if tiny else PRODUCT)
    with TemporaryDirectory(ignore_cleanup_errors=True) as workplace:
        run = Race(several, None, folder, Path(workplace), options.rounds, say, pairs=pairs, until=until)
        run.run(texts)
        differ = {workload: differences(saved, (REFERENCE,)) for workload, saved in run.embeddings.items() if saved}
    record: dict[str, Any] = {"tokens": tokens, "rates": rates, "device_mib": run.device_mib, "left_out": run.failed}
    record |= {"devices": run.devices, "differences": differ, "measures": {}}
    lines = [f"\n{name}, {', '.join(f'{workload} {mean:.1f} tokens' for workload, mean in tokens.items())} per text"]
    for workload, measure in measures(texts).items():
        title = f"{name}: {measure.title.replace('batch 32', f'batch {pairs}')}"
        part = record["measures"][workload] = measure_record(measure._replace(title=title), run.raw[workload])
        # A training step is three forward passes of two texts per pair.
        each = (operations(folder, tokens[workload]) or 1) * (6 if workload == "train" else 1)
        whole = {dtype: rate / each for dtype, rate in rates.items()}
        lines += ["", *table(part, 1, differ.get(workload, {}), whole)]
    for workload, each in run.device_mib.items():
        lines += [f"device memory, {workload}: {key} {mib:,.0f} MiB" for key, mib in each.items()]
    lines += [f"left out: {key}: {why}" for key, why in run.failed.items()]
    if len(several) > 2 and (tiny or time.monotonic() < until):
        say(f"{name}: profile")
        with get_context("spawn").Pool(1) as process:
            record["costliest"] = process.apply(costliest, (folder, 1024 if tiny else 65_536, pairs))
        for title, found in record["costliest"].items():
            lines += ["", f"costliest operations of minisbert bfloat16, {title}, ms"]
            lines += [f"  {taken:9.3f}  {operation[:100]}" for operation, taken in found]
    return record, lines


def outside(record: dict[str, Any]) -> list[str]:
    """Where an embedding differs from sentence-transformers in float32 by more than `PARITY`."""
    return [
        f"{name}, {workload}, {key}: {found['embedding']}"
        for name, model in record["models"].items()
        for workload, each in model["differences"].items()
        for key, found in each.items()
        if found["embedding"] is None or found["embedding"] > PARITY[key.split()[-1]]
    ]


def main(argv: list[str]) -> int:
    if argv[:1] == ["--serve"]:
        return serve(contestants(int(argv[1])), argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for the results")
    parser.add_argument("--tiny", action="store_true", help="two-layer models and few texts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.0, help="after these no further round or profile begins")
    options = parser.parse_args(argv)
    started, until = time.monotonic(), time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    say: Callable[[str], None] = lambda message: print(f"{time.monotonic() - started:5.0f} s  {message}", flush=True)  # noqa: E731
    record: dict[str, Any] = {"tiny": options.tiny, "machine": machine(), "versions": versions(), "models": {}}
    record["date"] = time.strftime("%Y-%m-%d")
    lines: list[str] = []
    with TemporaryDirectory(ignore_cleanup_errors=True) as models:
        for part, name in enumerate(MODELS, start=1):
            say(f"making a model of {name}'s shape")
            folder = make_model(Path(models) / name, name, tiny=options.tiny)
            share = started + 60 * options.minutes * part / len(MODELS)
            record["models"][name], new = race(folder, name, options, min(share, until), partial(_say, say, name))
            lines += new
            record["seconds"], record["outside"] = time.monotonic() - started, outside(record)
            (options.out / "accelerator.json").write_text(json.dumps(record, indent=1) + "\n")
    devices = {device for model in record["models"].values() for device in model["devices"].values()}
    head = [f"{', '.join(sorted(devices))}; {record['date']}; {record['seconds']:.0f} s", *_peaks(record)]
    head += [f"outside of parity: {each}" for each in record["outside"]] or ["parity: every embedding within its bound"]
    text = "\n".join([*head, *lines])
    (options.out / "accelerator.txt").write_text(text + "\n")
    print(text)
    if find_spec("matplotlib"):
        from bench_plot import save_bench_plot

        panels = {f"{name} {w}": m for name, one in record["models"].items() for w, m in one["measures"].items()}
        title = f"random weights{', tiny' if options.tiny else ''}"
        save_bench_plot(str(options.out / "accelerator.png"), record | {"model": title, "measures": panels})
    return 1 if record["outside"] else 0


def _say(say: Callable[[str], None], name: str, message: str) -> None:
    say(f"{name}: {message}")


def _peaks(record: dict[str, Any]) -> list[str]:
    """The rate of one large product, and its share of the published peak where the device is known."""
    kind = record["device_kind"] = _device_kind()
    peak = next((tera for known, tera in PEAKS.items() if known in kind), None)
    rates = next(iter(record["models"].values()))["rates"]
    line = ", ".join(f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in rates.items())
    share = f", {rates['bfloat16'] / peak / 1e12:.0%} of the published {peak} TFLOP/s in bfloat16" if peak else ""
    return [f"{kind}: one large product computes {line}{share}"]


def _device_kind() -> str:
    with get_context("spawn").Pool(1) as process:
        return str(process.apply(_first_device))


def _first_device() -> str:
    import jax

    return str(jax.devices()[0].device_kind)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
