"""`minisbert evaluate`: score a model on sentence pairs or triplets with human labels.

minisbert evaluate my-model sts12.tsv sts13.tsv --against all-MiniLM-L6-v2
minisbert evaluate my-model triplets_dev.tsv.gz --task triplets        # or binary, with labels 0 and 1
"""

import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands import flags
from minisbert.commands.outputs import check_output, new_figure, save_figure, write_json
from minisbert.errors import InputError

if TYPE_CHECKING:
    from minisbert.evaluation.sts import STSResult


def evaluate(
    model: Positional[flags.Model],
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]")],
    *,
    # "pairs" is the former name of "binary".
    task: Annotated[Literal["sts", "triplets", "binary", "pairs"], arg(metavar="{sts,triplets,binary}")] = "sts",
    text_columns: Annotated[tuple[str, str] | None, arg(metavar="NAME NAME")] = None,
    score_column: flags.OptionalName = None,
    against: flags.OptionalModel = None,
    prompt_name: flags.OptionalName = None,
    resamples: flags.N = 1000,
    seed: flags.N = 0,
    compute_dtype: flags.ComputeDtype = "float32",
    json: flags.OptionalFile = None,
    plot: flags.Png = None,
    offline: flags.Offline = False,
) -> int:
    """Score a model on pairs of sentences with human scores.

    Prints Spearman and Pearson correlations times 100 with bootstrap intervals, for each file and, for several files, by
    both usual protocols: pooled, and the mean of the subsets. With --task triplets: the share of anchors that are more
    similar to their positive than to their negative. With --task binary: how well a threshold on the similarity separates
    pairs with label 1 from pairs with label 0.

    Example: minisbert evaluate all-MiniLM-L6-v2 stsb_dev.tsv.gz

    Args:
        files: .csv, .tsv or .jsonl (each also .gz), or .parquet.
        task: sts (scored pairs), triplets (anchor, positive, negative), or binary (pairs with labels 1 and 0).
        text_columns: the two columns with the sentences, by default sentence1 and sentence2 or the names of other well-known
            data sets; not for triplets, whose columns have their own names.
        score_column: the column with the score; by default the first of score, relatedness, ..., label; for binary, label.
        against: also score a second model on the same pairs, with a paired test of the difference.
        prompt_name: the prompt in the model's settings to put before each sentence.
        resamples: the number of bootstrap draws.
        seed: the seed of these draws.
        json: also write the scores to this file.
        plot: also plot gold scores against cosines into this file.
    """
    if not files:
        raise InputError("no file is given. Expected files of sentence pairs with scores.")
    if task != "sts" and (against is not None or plot is not None):
        raise InputError(f"--against and --plot work only with --task sts. Expected neither with --task {task}.")
    flags.at_least_one("--resamples", resamples)
    for file in files:
        check_output(json, (".json",), source=file)
    check_output(plot, (".png",))

    from minisbert import SentenceEncoder
    from minisbert.data.conventions import CLASSES
    from minisbert.evaluation.binary_classification import evaluate_binary, read_labelled
    from minisbert.evaluation.sts import TEXTS, compare_sts, evaluate_sts, read_sts
    from minisbert.evaluation.triplets import evaluate_triplets, read_triplets

    load = partial(SentenceEncoder, compute_dtype=compute_dtype, token_budget="tuned", offline=offline)
    options: dict[str, Any] = {"show_progress_bar": sys.stderr.isatty()}
    options |= {} if prompt_name is None else {"prompt_name": prompt_name}

    # In every task all files are read before any model, so that a mistake in the last one shows immediately.
    if task == "sts":
        pairs = [read_sts(file, text_columns or TEXTS, score_column) for file in files]
        result = evaluate_sts(load(model), pairs, resamples=resamples, seed=seed, **options)
        print(result)
        record = _as_record(model, result)
        if against is not None:
            other = evaluate_sts(load(against), pairs, resamples=resamples, seed=seed, **options)
            comparisons = compare_sts(other, result, resamples=resamples, seed=seed)
            print(f"\n{against}\n{other}\n\n{model} against {against}, by cosine (paired bootstrap):")
            print("\n".join(map(str, comparisons)))
            record["against"] = against
            record["comparisons"] = [
                {"name": one.name, "spearman_difference": one.difference._asdict(), "p_value": one.p_value}
                for one in comparisons
            ]
        if plot is not None:
            _save_scatter(plot, model, result)
    else:
        triplets = task == "triplets"
        columns = (text_columns or TEXTS, score_column or CLASSES)
        data: list[Any] = [read_triplets(file) if triplets else read_labelled(file, *columns) for file in files]
        encoder = load(model)
        record = {"model": model, "task": task, "scores": {}}
        for file, part in zip(files, data, strict=True):
            if triplets:
                accuracies = evaluate_triplets(encoder, part, **options)
                scores = {name: {"accuracy": value} for name, value in accuracies.items()}
                print(f"{file}: {len(part.anchors)} triplets, accuracy x 100")
            else:
                scores = {name: one._asdict() for name, one in evaluate_binary(encoder, part, **options).items()}
                print(f"{file}: {len(part.labels)} pairs, x 100 except thresholds")
            record["scores"][file] = scores
            for name, values in scores.items():
                # Thresholds are on the scale of the similarity.
                cells = [f"{key} {value if 'threshold' in key else 100 * value:.4g}" for key, value in values.items()]
                print(f"  {name:10} {'  '.join(cells)}")
    write_json(json, record)
    return 0


def _as_record(model: str, result: "STSResult") -> dict[str, Any]:
    scores = [
        {**score._asdict(), "spearman": score.spearman._asdict(), "pearson": score.pearson._asdict()}
        for score in result.scores
    ]
    return {"model": model, "confidence": result.confidence, "scores": scores}


def _save_scatter(out: str, model: str, result: "STSResult") -> None:
    figure, axes = new_figure(6.4, 4.8)
    for part, similarities in zip(result.pairs, result.similarities, strict=True):
        axes.scatter(part.gold, similarities["cosine"], s=9, alpha=0.4, linewidths=0, label=Path(part.name).name)
    axes.set_xlabel("gold score")
    axes.set_ylabel("cosine similarity of the embeddings")
    spearman = result.score().spearman
    title = f"{textwrap.shorten(model, 60)}: Spearman x 100 = {100 * spearman.value:.2f}"
    axes.set_title(title, parse_math=False, fontsize="medium")
    if len(result.pairs) > 1:
        axes.legend(fontsize="small", markerscale=2)
    save_figure(figure, out)
