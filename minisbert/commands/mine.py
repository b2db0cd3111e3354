"""`minisbert mine`: find paraphrases, near-duplicates, translations and hard negatives among all pairs of sentences.

minisbert mine sentences.txt --model all-MiniLM-L6-v2 --threshold 0.95             # near-duplicates
minisbert mine english.txt --with-file german.txt --model MODEL                    # translations, one to one
minisbert mine pairs.tsv --negatives triplets.tsv --number 3 --relative-margin 0.05 --model all-MiniLM-L6-v2
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from minisbert.commands import flags
from minisbert.commands.outputs import STANDARD, check_output, json_line, write_lines
from minisbert.commands.tables import printable
from minisbert.data.columns import Sentences, read_columns, read_sentences
from minisbert.errors import InputError

if TYPE_CHECKING:
    from minisbert.mining.paraphrases import Pairs
    from minisbert.sentence_encoder import SentenceEncoder


def mine(
    file: Positional[flags.File],
    *,
    model: flags.Model,
    top: flags.OptionalN = None,
    threshold: flags.Score = None,
    with_file: flags.OptionalFile = None,
    neighbours: Annotated[int, arg(metavar="K")] = 4,
    json: bool = False,
    column: flags.Column = "text",
    negatives: flags.OptionalFile = None,
    anchor: flags.Name = "anchor",
    positive: flags.Name = "positive",
    number: flags.N = 1,
    range_min: flags.N = 0,
    range_max: flags.OptionalN = None,
    max_score: flags.Score = None,
    min_score: flags.Score = None,
    absolute_margin: flags.Score = None,
    relative_margin: Annotated[float | None, arg(metavar="SHARE")] = None,
    cross_encoder: flags.OptionalModel = None,
    compute_dtype: flags.ComputeDtype = "float32",
    offline: flags.Offline = False,
) -> int:
    """Find pairs of similar sentences, or hard negatives for training.

    Prints the most similar pairs in a file: score, the two line numbers and the two sentences, separated by tabs. Tabs and
    other control characters in sentences are printed as spaces; --json preserves them.

    Example: minisbert mine sentences.txt --model all-MiniLM-L6-v2 --top 20

    Args:
        file: the sentences: .txt (one per line), .jsonl, .tsv, .csv (each also .gz), .parquet.
        top: pairs to print, by default 10.
        threshold: instead, all pairs with at least this cosine (with --with-file: this margin score).
        with_file: pair each sentence of FILE with one of this file, such as its translation, by margin score.
        neighbours: neighbours per sentence in the margin score.
        json: print one JSON object per line instead.
        negatives: FILE contains pairs; write them with hard negatives to this .tsv or .jsonl, for `minisbert train`.
        anchor: the column with the anchors.
        positive: the column with the positives.
        number: negatives per pair.
        range_min: skip this many of the hardest candidates.
        range_max: consider this many of the hardest candidates, and as many more as an anchor has positives at most.
        max_score: exclude negatives that score higher.
        min_score: exclude negatives that score lower.
        absolute_margin: a negative scores at least this much less than the positive.
        relative_margin: the same as a share of the positive's score, such as 0.05.
        cross_encoder: score the candidates with this cross-encoder.
    """
    if negatives is not None:
        if top is not None or threshold is not None or with_file is not None or json:
            raise InputError(
                "--negatives cannot be combined with --top, --threshold, --with-file or --json. Run them separately."
            )
        check_output(negatives, (".tsv", ".jsonl"), source=file)
        check_columns(file)
        anchors, positives = read_columns(file, (anchor, positive))
    else:
        if top is not None and (threshold is not None or top < 1):
            raise InputError(
                "expected --top, at least 1, or --threshold. Pass the number of pairs, or their similarity."
            )
        if file == with_file == STANDARD:
            raise InputError("stdin is used for both sides. Expected a file for one of them.")
        sides = [read_sentences(one, column) for one in (file, with_file) if one is not None]

    from minisbert import SentenceEncoder

    options: dict[str, Any] = {"compute_dtype": compute_dtype, "token_budget": "tuned", "offline": offline}
    encoder = SentenceEncoder.load(model, **options)
    if negatives is None:
        _print(_pairs(encoder, sides, top, threshold, neighbours), sides, json)
        return 0

    from minisbert.mining.hard_negatives import hard_negatives, triplet_lines

    rescore = None
    if cross_encoder is not None:
        from minisbert import CrossEncoder

        rescore = CrossEncoder(cross_encoder, **options).predict
    mined = hard_negatives(
        encoder,
        anchors,
        positives,
        number=number,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        min_score=min_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        rescore=rescore,
        show_progress_bar=sys.stderr.isatty(),
    )
    if not mined.rows:
        raise InputError(
            f"no pair has {number} negative(s) within the limits. Lower --number or the margins, or raise --range-max."
        )
    write_lines(negatives, triplet_lines(mined.rows, Path(negatives).suffix.lower()))
    print(f"{len(mined.rows)} rows in {negatives}; {mined.left_out} pairs had too few negatives")
    return 0


def _pairs(
    encoder: "SentenceEncoder", sides: list[Sentences], top: int | None, threshold: float | None, neighbours: int
) -> "Pairs":
    """The pairs found, by the rows of the files."""
    from minisbert.mining.paraphrases import Pairs, best_pairs, bitext_pairs, pairs_above

    rows = [side.filled() for side in sides]
    vectors = [
        encoder.encode([side.texts[row] for row in some], show_progress_bar=sys.stderr.isatty())
        for side, some in zip(sides, rows, strict=True)
    ]
    if len(sides) == 2:
        found = bitext_pairs(*vectors, neighbours=neighbours, threshold=threshold)
        found = Pairs(*(part[: top or len(part)] for part in found))
    elif threshold is not None:
        found = pairs_above(vectors[0], threshold)
    else:
        found = best_pairs(vectors[0], top or 10)
    for one in (0, 1):
        found.rows_K2[:, one] = [rows[one % len(rows)][row] for row in found.rows_K2[:, one]]
    return found


def _print(found: "Pairs", sides: list[Sentences], as_json: bool) -> None:
    a, b = sides[0], sides[-1]
    for score, (i, j) in zip(found.scores_K.tolist(), found.rows_K2.tolist(), strict=True):
        lines, texts = [a.file.first + i, b.file.first + j], [a.texts[i], b.texts[j]]
        if as_json:
            print(json_line({"score": score, "lines": lines, "texts": texts}), end="")
        else:
            print(f"{score:.4f}", *lines, *map(printable, texts), sep="\t")


def check_columns(file: str) -> None:
    """Raises InputError for plain text and stdin, which have no columns to choose from."""
    if file == STANDARD or file.lower().removesuffix(".gz").endswith(".txt"):
        raise InputError(f"{file}: plain text has one column. Expected .tsv, .jsonl (or these with .gz) or .parquet.")
