"""Training runs with invalid settings, data files and run folders. Tiny model, few rows.

Nearly all must be refused before the first step; cases that compile are marked slow.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from battery import Case, Gives, Refused, Work, refused, slow

NAN, INF = float("nan"), float("inf")
PAIRS = "anchor\tpositive\n" + "".join(f"a man {i}\ta dog {i}\n" for i in range(8))
SCORED = "score\tsentence1\tsentence2\n" + "".join(f"{i / 8}\ta man {i}\ta dog {i}\n" for i in range(8))
NLI = "label\tpremise\thypothesis\n" + "".join(f"{'neutral'}\ta man {i}\ta dog {i}\n" for i in range(8))
TRIPLETS = "anchor\tpositive\tnegative\n" + "".join(f"a {i}\tb {i}\tc {i}\n" for i in range(8))


def trained(
    content: str | bytes = PAIRS,
    *,
    name: str = "data.tsv",
    before: Callable[[Work], Any] = lambda work: None,
    cross: bool = False,
    where: dict[str, Any] | None = None,
    **settings: Any,
) -> Callable[[Any, Work], Any]:
    """Write a data file and train tiny-bert on it for a step or two."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.training.config import TrainConfig
        from minisbert.training.trainer import train

        file = work.file(name, content)
        before(work)
        options: dict[str, Any] = {
            "data": (str(file),),
            "batch_size": 4,
            "max_steps": 1,
            "checkpoint_every": 1,
            **settings,
        }
        model = lib.cross if cross else lib.encoder
        return train(model, TrainConfig(**options), work.folder / "run", **{"show_progress": False, **(where or {})})

    return act


def embeds(lib: Any, result: Any) -> bool:
    """The result is a model that embeds."""
    return result.encode("a man").shape == (32,)


# --- settings: (name, value) ---------------------------------------------------------------------------------------

NO_COUNT = [0, -1, 1.5, "4", True, NAN]
SETTINGS: list[tuple[str, Any]] = [
    *[("batch_size", value) for value in [*NO_COUNT, None, [4], 1]],  # 1 has no in-batch negatives
    *[(name, value) for name in ("epochs", "checkpoint_every", "evaluate_every") for value in NO_COUNT],
    *[(name, value) for name in ("max_steps", "early_stopping_patience") for value in NO_COUNT],
    *[("chunk_size", value) for value in NO_COUNT],
    *[("learning_rate", value) for value in (0, -1e-5, NAN, INF, "2e-5", None, True, [1e-5])],
    *[("clip_norm", value) for value in (0, -1, NAN, "1", None)],
    *[("weight_decay", value) for value in (-1, NAN, INF, "0.01", None)],
    *[("warmup", value) for value in (-0.1, 1.5, NAN, "0.1", None)],
    *[("decay", value) for value in ("nope", "", None, ["linear"])],
    *[("loss", value) for value in ("nope", "", None, 3, ["softmax"], "mse")],  # mse needs a teacher
    *[
        ("loss_options", value)
        for value in ({"nope": 1}, {"scale": NAN}, {"scale": "20"}, {"scale": None}, [1], "scale=20", {3: 4})
    ],
    *[("compute_dtype", value) for value in ("float16", None, 3)],
    *[("mixing", value) for value in ("nope", None, 3)],
    *[("matryoshka", value) for value in ((0,), (-8,), (64,), ("8",), 8, (8.5,), (True,))],
    *[("report_to", value) for value in (("nope",), "tensorboard", (3,))],
    *[("lora_rank", value) for value in NO_COUNT],
    *[("lora_alpha", value) for value in (0.0, NAN, 8.0)],  # 8 without a rank
    *[("lora_targets", value) for value in ((), ("qkv",), "query", 3)],
    *[("prompts", value) for value in ((3,), 3, (None,), ("a", "b", "c"), ("\ud800",))],
    *[("seed", value) for value in (-1, "0", 1.5, None, 2**64, True)],
    *[("dropout", value) for value in ("no", 0.1, None)],
    *[("remat", value) for value in ("no", 2)],
    *[("no_duplicates", value) for value in ("no", 2)],
    *[("teacher", value) for value in ("weights/tiny-bert", 3)],
    *[("kind", value) for value in ("nope", "", 3, ["pairs"])],
    *[("score_range", value) for value in ((0, 5), (5, 0), "0 5", (NAN, 1))],
    *[("data", value) for value in ((), None, 3, (3,), (None,), ("nowhere.tsv",), ("data.csv",), ("hub:",))],
]

# --- data files: (name, file's name, content, settings, words) ------------------------------------------------------

DATA: list[tuple[str, str, str | bytes, dict[str, Any], tuple[str, ...]]] = [
    ("an empty tsv", "data.tsv", "", {}, ("data.tsv",)),
    ("a header without rows", "data.tsv", "anchor\tpositive\n", {}, ("data.tsv",)),
    # A row alone trains, with a warning that it has no negatives.
    (
        "a row four times",
        "data.tsv",
        "anchor\tpositive\n" + 4 * "a\tb\n",
        {"no_duplicates": True},
        ("data.tsv", "batch"),
    ),
    ("columns of no kind", "data.tsv", "x\ty\na\tb\n" * 4, {}, ("data.tsv", "'x'")),
    ("a row with a missing cell", "data.tsv", PAIRS + "alone\n", {}, ("data.tsv, line 10",)),
    ("a row with an extra cell", "data.tsv", PAIRS + "a\tb\tc\n", {}, ("data.tsv, line 10",)),
    ("a bad row after an empty line", "data.tsv", PAIRS + "\n" + "a\t\n", {}, ("data.tsv, line 11",)),
    ("an empty cell", "data.tsv", PAIRS + "a\t\n", {}, ("data.tsv, line 10", "positive")),
    ("a blank cell", "data.tsv", PAIRS + "  \tb\n", {}, ("data.tsv, line 10", "anchor")),
    ("a byte that is not UTF-8", "data.tsv", PAIRS.encode() + b"caf\xe9\tb\n", {}, ("data.tsv, line 10",)),
    ("UTF-16", "data.tsv", PAIRS.encode("utf-16"), {}, ("data.tsv",)),
    ("zeros", "data.tsv", bytes(1000), {}, ("data.tsv",)),
    ("the same column twice", "data.tsv", "anchor\tanchor\tpositive\na\tb\tc\n" * 2, {}, ("data.tsv", "anchor")),
    ("commas for tabs", "data.tsv", PAIRS.replace("\t", ","), {}, ("data.tsv",)),
    ("a web page", "data.tsv", "<!doctype html>\n<html>\n", {}, ("data.tsv",)),
    ("a gz file that is not gzipped", "data.tsv.gz", PAIRS, {}, ("data.tsv.gz",)),
    ("a gz that is cut", "data.tsv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03K", {}, ("data.tsv.gz",)),
    ("a parquet file that is not parquet", "data.parquet", PAIRS, {}, ("data.parquet",)),
    ("jsonl that is not JSON", "data.jsonl", "not json\n", {}, ("data.jsonl, line 1",)),
    ("jsonl of lists", "data.jsonl", "[1, 2]\n", {}, ("data.jsonl, line 1",)),
    ("jsonl nested deeply", "data.jsonl", '{"a":' * 100_000 + "\n", {}, ("data.jsonl, line 1",)),
    (
        "jsonl with a key missing",
        "data.jsonl",
        '{"anchor": "a", "positive": "b"}\n{"anchor": "a"}\n',
        {},
        ("data.jsonl, line 2", "positive"),
    ),
    ("jsonl with null", "data.jsonl", '{"anchor": "a", "positive": null}\n', {}, ("data.jsonl, line 1", "positive")),
    ("jsonl with a number", "data.jsonl", '{"anchor": "a", "positive": 3}\n', {}, ("data.jsonl, line 1", "positive")),
    (
        "jsonl with a lone surrogate",
        "data.jsonl",
        '{"anchor": "a", "positive": "\\ud800"}\n',
        {},
        ("data.jsonl, line 1", "positive"),
    ),
    ("pairs for a loss of triplets", "data.tsv", PAIRS, {"loss": "triplet"}, ("data.tsv", "triplet")),
    ("pairs for a loss of scores", "data.tsv", PAIRS, {"loss": "cosent"}, ("data.tsv", "cosent")),
    ("triplets for a loss of classes", "data.tsv", TRIPLETS, {"loss": "softmax"}, ("data.tsv", "softmax")),
    ("scores for in-batch negatives", "data.tsv", SCORED, {}, ("data.tsv",)),
    ("a score of NaN", "data.tsv", SCORED + "nan\ta\tb\n", {"loss": "cosent"}, ("data.tsv, line 10", "score")),
    ("a score of infinity", "data.tsv", SCORED + "inf\ta\tb\n", {"loss": "cosent"}, ("data.tsv, line 10", "score")),
    ("a score that is text", "data.tsv", SCORED + "good\ta\tb\n", {"loss": "cosent"}, ("data.tsv, line 10", "score")),
    (
        "a score of 5 without score_range",
        "data.tsv",
        SCORED + "5\ta\tb\n",
        {"loss": "cosent"},
        ("data.tsv, line 10", "score_range"),
    ),
    (
        "a score with an underscore",
        "data.tsv",
        SCORED + "1_0\ta\tb\n",
        {"loss": "cosent"},
        ("data.tsv, line 10", "score"),
    ),
    ("a class that is a dash", "data.tsv", NLI + "-\ta\tb\n", {"loss": "softmax"}, ("data.tsv, line 10", "label")),
    ("a class of -1", "data.tsv", NLI.replace("neutral", "0") + "-1\ta\tb\n", {"loss": "softmax"}, ("data.tsv",)),
    (
        "a class that is not named",
        "data.tsv",
        NLI + "7\ta\tb\n",
        {"loss": "softmax", "classes": ("neutral", "other")},
        ("data.tsv, line 10", "'7'", "'neutral', 'other' or a number from 0 to 1"),
    ),
    ("an empty class", "data.tsv", NLI + "\ta\tb\n", {"loss": "softmax"}, ("data.tsv, line 10", "label")),
    ("a class of 1.5", "data.tsv", NLI + "1.5\ta\tb\n", {"loss": "softmax"}, ("data.tsv, line 10", "label")),
    (
        "batches without a text twice, and one text",
        "data.tsv",
        "anchor\tpositive\n" + "a\tb\n" * 8,
        {"no_duplicates": True},
        ("data.tsv",),
    ),
]


# --- run folders, checkpoints, calls --------------------------------------------------------------------------------


def occupied(work: Work) -> None:
    """Put a file where the run's folder should be."""
    work.file("run", "x")


def file_for_checkpoints(work: Work) -> None:
    """Put a file where the checkpoints should be."""
    work.file("run/checkpoints", "x")


def again(spoil: Callable[[Path], Any], **settings: Any) -> Callable[[Any, Work], Any]:
    """Train two steps, spoil something in the run's folder, and start the same run again with more steps."""

    def act(lib: Any, work: Work) -> Any:
        trained(max_steps=2)(lib, work)
        spoil(work.folder / "run")
        return trained(max_steps=2, **settings)(lib, work)

    return act


def checkpoint_files(run: Path) -> list[Path]:
    """All files of all checkpoints, the large ones first."""
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def cut_state(run: Path) -> None:
    """Cut every large file of every checkpoint in half."""
    for file in checkpoint_files(run)[:4]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garble(run: Path) -> None:
    """Overwrite every JSON file of every checkpoint with zeros."""
    for file in checkpoint_files(run):
        if file.name in ("metadata", "_METADATA", "_CHECKPOINT_METADATA", "array_metadatas") or file.suffix == ".json":
            file.write_bytes(bytes(100))


def drop_metadata(run: Path) -> None:
    """Delete every file of the checkpoints; their folders remain."""
    for file in checkpoint_files(run):
        file.unlink()


def call(**changes: Any) -> Callable[[Any, Work], Any]:
    """`train` with one invalid argument."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.training.config import TrainConfig
        from minisbert.training.trainer import train

        data = (str(work.file("data.tsv", PAIRS)),)
        arguments = {
            "model": lib.encoder,
            "config": TrainConfig(data=data, batch_size=4, max_steps=1),
            "folder": work.folder / "run",
        }
        return train(**{**arguments, "show_progress": False, **changes})

    return act


RUNS: list[tuple[str, Callable[[Any, Work], Any], Refused]] = [
    ("a file in the place of the run's folder", trained(before=occupied), refused("WriteError", "run")),
    (
        "a file in the place of the checkpoints",
        trained(before=file_for_checkpoints),
        refused("TrainingError", "checkpoints"),
    ),
    ("a model that is None", call(model=None), refused("InputError", "model")),
    ("a model that is a name", call(model="tiny-bert"), refused("InputError", "model")),
    ("a config that is None", call(config=None), refused("InputError", "config")),
    ("a config that is a dict", call(config={"data": ("x.tsv",)}), refused("InputError", "config")),
    ("a folder that is a number", call(folder=3), refused("InputError", "folder")),
    ("a folder that is an address", call(folder="gs://bucket/run"), refused("InputError", "folder", "mount")),
    (
        "a folder that is a Path of an address",
        call(folder=Path("gs://bucket/run")),
        refused("InputError", "folder", "mount"),
    ),
    ("a folder with a NUL", call(folder="a\0b"), refused("MinisbertError", "folder")),
    ("a score that is not a function", call(score=0.5), refused("InputError", "score")),
    *[
        (f"devices {value!r}", call(devices=value), refused("InputError", "devices"))
        for value in (0, -1, 1000, "1", 1.5, True)
    ],
    *[(f"layout {value!r}", call(layout=value), refused("InputError", "layout")) for value in ("nope", None, 3)],
    (
        "scores for a cross-encoder, out of range",
        trained(SCORED + "-0.5\ta\tb\n", cross=True, loss="binary_cross_entropy"),
        refused("DataError", "line 10"),
    ),
    (
        "classes for a cross-encoder of one label",
        trained(NLI, cross=True, loss="cross_entropy"),
        refused("InputError", "num_labels"),
    ),
    ("a siamese loss for a cross-encoder", trained(cross=True, loss="triplet"), refused("InputError", "loss")),
    (
        "a prompt before the second text, for a cross-encoder",
        trained(SCORED, cross=True, loss="binary_cross_entropy", prompts=("", "x")),
        refused("InputError", "prompts"),
    ),
    (
        "a matryoshka for a cross-encoder",
        trained(SCORED, cross=True, loss="binary_cross_entropy", matryoshka=(1,)),
        refused("InputError", "matryoshka"),
    ),
]
SLOW: list[tuple[str, Callable[[Any, Work], Any], Refused | Gives]] = [
    ("fine: one step", trained(), Gives("a model", embeds)),
    (
        "fine: metrics that were cut by a kill",
        again(lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "lo')),
        Gives("a model", embeds),
    ),
    (
        "fine: metrics of garbage",
        again(lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\0[[[\n{}\n3\n")),
        Gives("a model", embeds),
    ),
    (
        "a learning rate that overflows",
        trained(learning_rate=1e38, max_steps=2, warmup=0.0, decay="constant"),
        refused("TrainingError", "step 2", "learning rate"),
    ),
    (
        "a score function that gives NaN, as a correlation with equal similarities is: a warning, and it is left out",
        call(score=lambda model: NAN),
        Gives("a model", embeds),
    ),
    ("a score function that gives infinity", call(score=lambda model: float("inf")), refused("InputError", "score")),
    ("a score function that gives text", call(score=lambda model: "good"), refused("InputError", "score")),
    (
        "another run's folder: settings",
        again(lambda run: None, learning_rate=1e-4),
        refused("TrainingError", "learning_rate"),
    ),
    (
        "another run's folder: data",
        again(lambda run: None, content=PAIRS + "a\tb\n"),
        refused("TrainingError", "sha256"),
    ),
    ("a checkpoint that is cut", again(cut_state), refused("TrainingError", "checkpoint")),
    ("a checkpoint of zeros", again(garble), refused("TrainingError", "checkpoint")),
    ("a checkpoint without files", again(drop_metadata), refused("TrainingError", "checkpoint")),
]


def _expected(name: str, value: Any) -> Refused:
    return refused("MinisbertError") if name == "data" else refused("InputError", name)


CASES = [
    *[
        Case("training", f"{name} {value!r:.24}", trained(**{name: value}), _expected(name, value))
        for name, value in SETTINGS
    ],
    *[
        Case("training", name, trained(content, name=file, **settings), refused("MinisbertError", *words))
        for name, file, content, settings, words in DATA
    ],
    *[Case("training", name, act, expect) for name, act, expect in RUNS],
    *[slow(Case("training", name, act, expect)) for name, act, expect in SLOW],
]
