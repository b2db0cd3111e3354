"""`minisbert evaluate`: how well a model's similarities follow those that people see.

minisbert evaluate all-MiniLM-L6-v2 stsb_dev.tsv.gz --json scores.json --plot scatter.png
minisbert evaluate my-model sts12.tsv sts13.tsv --against all-MiniLM-L6-v2
minisbert evaluate my-model triplets_dev.tsv.gz --task triplets        # or pairs, with labels 0 and 1
"""

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands.outputs import check_output, whole_file
from minisbert.errors import InputError

if TYPE_CHECKING:
    from minisbert.evaluation.sts import STSComparison, STSResult


def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]")],
    *,
    task: Literal["sts", "triplets", "pairs"] = "sts",
    text_columns: Annotated[tuple[str, str], arg(metavar="NAME NAME")] = ("sentence1", "sentence2"),
    score_column: Annotated[str | None, arg(metavar="NAME")] = None,
    against: Annotated[str | None, arg(metavar="MODEL")] = None,
    prompt_name: Annotated[str | None, arg(metavar="NAME")] = None,
    resamples: Annotated[int, arg(metavar="N")] = 1000,
    seed: Annotated[int, arg(metavar="N")] = 0,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
    json: Annotated[str | None, arg(metavar="FILE")] = None,
    plot: Annotated[str | None, arg(metavar="PNG")] = None,
    offline: bool = False,
) -> int:
    """Score a model on pairs of sentences that people have scored.

    Prints Spearman and Pearson correlations times 100 with bootstrap intervals, for each file and, over several files,
    by both protocols in use: pooled, and the mean of the subsets. With --task triplets the share of anchors that are more
    like their positive than their negative; with --task pairs how well a threshold tells labels 1 and 0 apart.

    Example: minisbert evaluate all-MiniLM-L6-v2 stsb_dev.tsv.gz

    Args:
        model: a folder, a known name, or a name on the hub.
        files: .tsv (a header, no quoting), .jsonl (each also .gz) or .parquet.
        task: sts (scored pairs), triplets (anchor, positive, negative), or pairs (labels 1 and 0).
        text_columns: the two columns that hold the sentences; triplets have their own names.
        score_column: the column that holds the score; by default the first of score, relatedness, label; for pairs label.
        against: a second model on the same pairs, with a paired test of the difference to the first.
        prompt_name: the name of a text in the model's settings to put before each sentence.
        resamples: draws of the bootstrap.
        seed: of these draws.
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        json: also write the scores here.
        plot: also draw gold score against cosine here.
        offline: never open a socket.
    """
    if not files:
        raise InputError("no file is named. Expected files of sentence pairs with scores.")
    if task != "sts" and (against is not None or plot is not None):
        raise InputError(f"--against and --plot belong to --task sts. Expected neither with --task {task}.")
    if resamples < 1:
        raise InputError(f"--resamples is {resamples}. Expected at least 1.")
    if json is not None:
        check_output(json, (".json",))
    if plot is not None:
        check_output(plot, (".png",))
    if task != "sts":
        options: dict[str, Any] = {"show_progress_bar": sys.stderr.isatty()}
        options |= {} if prompt_name is None else {"prompt_name": prompt_name}
        scores = _scores(task, files, text_columns, score_column, model, compute_dtype, offline, options)
        if json is not None:
            _write_json(json, {"model": model, "task": task, "scores": scores})
        return 0

    from minisbert import SentenceEncoder
    from minisbert.evaluation.sts import compare_sts, evaluate_sts, read_sts

    # All files before any model: a mistake in the last one is known at once.
    pairs = [read_sts(file, text_columns, score_column) for file in files]

    def scored(name: str) -> "STSResult":
        encoder = SentenceEncoder.load(name, compute_dtype=compute_dtype, offline=offline)
        options: dict[str, Any] = {"prompt_name": prompt_name, "show_progress_bar": sys.stderr.isatty()}
        return evaluate_sts(encoder, pairs, resamples=resamples, seed=seed, **options)

    result = scored(model)
    print(result)
    comparisons: tuple[STSComparison, ...] = ()
    if against is not None:
        other = scored(against)
        comparisons = compare_sts(other, result, resamples=resamples, seed=seed)
        print(f"\n{against}\n{other}\n\n{model} against {against}, by cosine (paired bootstrap):")
        print("\n".join(map(str, comparisons)))
    if json is not None:
        _save_json(json, model, result, against, comparisons)
    if plot is not None:
        _save_scatter(plot, model, result)
    return 0


def _scores(
    task: str,
    files: tuple[str, ...],
    text_columns: tuple[str, str],
    label_column: str | None,
    model: str,
    compute_dtype: str,
    offline: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Print and return the scores of each file by each similarity."""
    from minisbert import SentenceEncoder
    from minisbert.evaluation.binary_classification import evaluate_binary, read_labelled
    from minisbert.evaluation.triplets import evaluate_triplets, read_triplets

    # All files before the model: a mistake in the last one is known at once.
    sets: list[Any] = [
        read_triplets(file) if task == "triplets" else read_labelled(file, text_columns, label_column or "label")
        for file in files
    ]
    encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, offline=offline)
    record: dict[str, Any] = {}
    for file, data in zip(files, sets, strict=True):
        if task == "triplets":
            found = {name: {"accuracy": value} for name, value in evaluate_triplets(encoder, data, **options).items()}
            print(f"{file}: {len(data.anchors)} triplets, accuracy x 100")
        else:
            found = {name: one._asdict() for name, one in evaluate_binary(encoder, data, **options).items()}
            print(f"{file}: {len(data.labels)} pairs, x 100 but for thresholds")
        for name, values in found.items():
            # Thresholds are on the scale of the similarity.
            cells = [f"{key} {value if 'threshold' in key else 100 * value:.4g}" for key, value in values.items()]
            print(f"  {name:10} {'  '.join(cells)}")
        record[file] = found
    return record


def _write_json(out: str, record: dict[str, Any]) -> None:
    from json import dumps

    with whole_file(Path(out)) as temporary:
        temporary.write_text(dumps(record, indent=2) + "\n", encoding="utf-8")


def _save_json(
    out: str, model: str, result: "STSResult", against: str | None, comparisons: "tuple[STSComparison, ...]"
) -> None:
    record: dict[str, Any] = {
        "model": model,
        "confidence": result.confidence,
        "scores": [
            {**score._asdict(), "spearman": score.spearman._asdict(), "pearson": score.pearson._asdict()}
            for score in result.scores
        ],
    }
    if against is not None:
        record["against"] = against
        record["comparisons"] = [
            {"name": one.name, "spearman_difference": one.difference._asdict(), "p_value": one.p_value}
            for one in comparisons
        ]
    _write_json(out, record)


def _save_scatter(out: str, model: str, result: "STSResult") -> None:
    # The Agg canvas directly instead of pyplot: no window system is asked for, and no global state is left.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for part, similarities in zip(result.pairs, result.similarities, strict=True):
        axes.scatter(part.gold, similarities["cosine"], s=9, alpha=0.4, linewidths=0, label=Path(part.name).name)
    axes.set_xlabel("gold score")
    axes.set_ylabel("cosine similarity of the embeddings")
    spearman = result.score().spearman
    title = f"{textwrap.shorten(model, 60)}: Spearman x 100 = {100 * spearman.value:.2f}"
    axes.set_title(title, parse_math=False, fontsize="medium")
    if len(result.pairs) > 1:
        axes.legend(fontsize="small", markerscale=2)
    with whole_file(Path(out)) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
