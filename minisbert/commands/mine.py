"""`minisbert mine`: pairs that belong together, found among all pairs of sentences.

minisbert mine sentences.txt --model all-MiniLM-L6-v2 --top 20                     # the most similar pairs
minisbert mine sentences.txt --model all-MiniLM-L6-v2 --threshold 0.95             # near-duplicates
minisbert mine english.txt --with-file german.txt --model MODEL                    # translations, one to one
minisbert mine pairs.tsv --negatives triplets.tsv --number 3 --relative-margin 0.05 --model all-MiniLM-L6-v2
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from minisbert.commands.outputs import STANDARD, check_output, whole_file
from minisbert.data.columns import Sentences, read_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    from minisbert.mining.paraphrases import Pairs


def mine(
    file: Annotated[Positional[str], arg(metavar="FILE")],
    *,
    model: Annotated[str, arg(metavar="MODEL")],
    top: Annotated[int | None, arg(metavar="N")] = None,
    threshold: Annotated[float | None, arg(metavar="SCORE")] = None,
    with_file: Annotated[str | None, arg(metavar="FILE")] = None,
    neighbours: Annotated[int, arg(metavar="K")] = 4,
    json: bool = False,
    column: Annotated[str, arg(metavar="NAME")] = "text",
    negatives: Annotated[str | None, arg(metavar="FILE")] = None,
    anchor: Annotated[str, arg(metavar="NAME")] = "anchor",
    positive: Annotated[str, arg(metavar="NAME")] = "positive",
    number: Annotated[int, arg(metavar="N")] = 1,
    range_min: Annotated[int, arg(metavar="N")] = 0,
    range_max: Annotated[int | None, arg(metavar="N")] = None,
    max_score: Annotated[float | None, arg(metavar="SCORE")] = None,
    min_score: Annotated[float | None, arg(metavar="SCORE")] = None,
    absolute_margin: Annotated[float | None, arg(metavar="SCORE")] = None,
    relative_margin: Annotated[float | None, arg(metavar="SHARE")] = None,
    cross_encoder: Annotated[str | None, arg(metavar="MODEL")] = None,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
    offline: bool = False,
) -> int:
    """Find pairs of sentences that belong together, or hard negatives for training.

    Prints the most similar pairs of a file: score, the two line numbers, the two sentences, separated by tabs. Tabs and
    other control characters of sentences are printed as spaces; --json keeps them.

    Example: minisbert mine sentences.txt --model all-MiniLM-L6-v2 --top 20

    Args:
        file: the sentences: .txt (one a line), .jsonl, .tsv (each also .gz), .parquet.
        model: a folder, a known name, or a name on the hub.
        top: pairs to print, by default 10.
        threshold: instead, all pairs with at least this cosine (with --with-file: this margin score).
        with_file: pairs of a sentence of FILE and one of this file, such as translations, by margin score.
        neighbours: of each sentence, for the margin score.
        json: print an object a line instead.
        column: which key or column of jsonl, tsv or parquet holds the sentence.
        negatives: FILE holds pairs; write them with hard negatives to this .tsv or .jsonl, for `minisbert train`.
        anchor: which column of the pairs holds the anchor.
        positive: which column holds the positive.
        number: negatives for each pair; pairs with fewer are left out.
        range_min: how many of the hardest negatives are skipped.
        range_max: how many of the hardest are looked at.
        max_score: negatives score at most this.
        min_score: negatives score at least this.
        absolute_margin: negatives score at least this much less than the positive.
        relative_margin: the same as a share of the positive's score.
        cross_encoder: a model that scores candidates and positives anew.
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        offline: never open a socket.
    """
    if negatives is not None:
        if top is not None or threshold is not None or with_file is not None or json:
            raise InputError("--negatives goes with none of --top, --threshold, --with-file, --json. Do one at a time.")
        check_output(negatives, (".tsv", ".jsonl"), source=file)
        check_columns(file)
        asked, answers = read_sentences(file, anchor), read_sentences(file, positive)
        for name, side in ((anchor, asked), (positive, answers)):
            if not side.texts:
                raise DataError(f"{file}: no rows. Expected pairs.")
            for row, text in enumerate(side.texts):
                if not text.strip():
                    raise DataError(f"{side.place(row)}: {name!r} is empty. Expected text; remove the row.")
    else:
        if top is not None and (threshold is not None or top < 1):
            raise InputError("expected --top, at least 1, or --threshold. Say how many pairs, or how alike.")
        if file == with_file == STANDARD:
            raise InputError("stdin is named twice. Expected a file for one side.")
        asked = read_sentences(file, column)
        answers = read_sentences(with_file, column) if with_file is not None else asked

    from minisbert import SentenceEncoder
    from minisbert.mining.hard_negatives import hard_negatives, triplet_lines
    from minisbert.mining.paraphrases import best_pairs, bitext_pairs, pairs_above

    encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, offline=offline)
    on_terminal = sys.stderr.isatty()
    if negatives is not None:
        rescore = None
        if cross_encoder is not None:
            from minisbert.cross_encoder.encoder import CrossEncoder

            rescore = CrossEncoder(cross_encoder, compute_dtype=compute_dtype, offline=offline).predict
        mined = hard_negatives(
            encoder,
            asked.texts,
            answers.texts,
            number=number,
            range_min=range_min,
            range_max=range_max,
            max_score=max_score,
            min_score=min_score,
            absolute_margin=absolute_margin,
            relative_margin=relative_margin,
            rescore=rescore,
            show_progress_bar=on_terminal,
        )
        if not mined.rows:
            raise InputError(
                f"no pair has {number} negative(s) that fit. Expected some; lower --number or the margins, or raise "
                "--range-max."
            )
        with whole_file(Path(negatives)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(triplet_lines(mined.rows, Path(negatives).suffix.lower()))
        print(f"{len(mined.rows)} rows in {negatives}; {mined.left_out} pairs had too few negatives")
        return 0

    # Blank lines are no sentences; the numbers stay those of the file.
    sides = [[row for row, text in enumerate(side.texts) if text.strip()] for side in (asked, answers)]
    first = encoder.encode([asked.texts[row] for row in sides[0]], show_progress_bar=on_terminal)
    if with_file is not None:
        second = encoder.encode([answers.texts[row] for row in sides[1]], show_progress_bar=on_terminal)
        found = bitext_pairs(first, second, neighbours=neighbours, threshold=threshold)
        found = type(found)(*(part[: top or len(part)] for part in found))
    elif threshold is not None:
        found = pairs_above(first, threshold)
    else:
        found = best_pairs(first, top or 10)
    _print(found, asked, answers, sides, json)
    return 0


def _print(found: "Pairs", one: Sentences, other: Sentences, sides: list[list[int]], as_json: bool) -> None:
    from json import dumps

    for score, (a, b) in zip(found.scores_K.tolist(), found.rows_K2.tolist(), strict=True):
        i, j = sides[0][a], sides[1][b]
        lines, texts = [one.first + i, other.first + j], [one.texts[i], other.texts[j]]
        if as_json:
            print(dumps({"score": score, "lines": lines, "texts": texts}, ensure_ascii=False))
        else:
            print(f"{score:.4f}", *lines, *map(printable, texts), sep="\t")


def check_columns(file: str) -> None:
    """Refuse a kind of file that has no columns to choose from.

    Raises:
        InputError: plain text, or stdin.
    """
    if file == STANDARD or file.lower().removesuffix(".gz").endswith(".txt"):
        raise InputError(f"{file}: plain text has one column. Expected .tsv, .jsonl (or these with .gz) or .parquet.")


def printable(text: str) -> str:
    """A stranger's sentence for a terminal: control characters, which could steer it, become spaces.

    Example:
        >>> printable("red\\x1b[31m\\ttext")
        'red [31m text'
    """
    return "".join(c if c.isprintable() or c == "\u200d" else " " for c in text)
