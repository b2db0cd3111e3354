"""`minisbert pairwise-cost`: find the most similar pair of 10,000 sentences, in seconds instead of hours."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from minisbert.commands.flags import Column, ComputeDtype, Model, N, Offline, OptionalFile, OptionalModel, Png
from minisbert.commands.outputs import check_output, new_figure, save_figure
from minisbert.commands.tables import columns, printable
from minisbert.data.columns import read_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    from minisbert.mining.pairwise_cost import PairwiseCost


def pairwise_cost(
    model: Positional[Model],
    *,
    sentences: N = 10_000,
    corpus: OptionalFile = None,
    column: Column = "text",
    pairs: N = 256,
    cross_encoder: OptionalModel = None,
    out: Png = None,
    seed: N = 0,
    compute_dtype: ComputeDtype = "float32",
    offline: Offline = False,
) -> int:
    """Time the search for the most similar pair of 10,000 sentences, as in the SBERT paper.

    Measures embedding and comparison, and a cross-encoder on a sample of pairs, whose time for all pairs is extrapolated.
    The paper's times are printed alongside (Reimers & Gurevych 2019, section 1).

    Example: minisbert pairwise-cost all-MiniLM-L6-v2 --sentences 50 --pairs 4 --out cost.png

    Args:
        sentences: the number of sentences.
        corpus: a file of sentences; by default they are generated from word lists.
        pairs: pairs for the cross-encoder to score; 0 skips it.
        cross_encoder: the cross-encoder; by default the model's own encoder with an untrained head, which is just as fast.
        out: also draw the times as a bar chart into this file.
        seed: the seed of the sentences and of the sample of pairs.
    """
    if sentences < 2 or pairs < 0 or seed < 0:
        raise InputError("expected at least 2 --sentences, and --pairs and --seed not below 0.")
    check_output(out, (".png",))
    texts = _texts(sentences, corpus, column, seed)

    from minisbert import SentenceEncoder
    from minisbert.mining.pairwise_cost import measure

    encoder = SentenceEncoder.load(model, compute_dtype="float32", token_budget="tuned", offline=offline)
    predict = None
    if pairs:
        from minisbert.cross_encoder.encoder import CrossEncoder

        # The untrained head shares the encoder's weights.
        pair = cross_encoder or CrossEncoder.from_encoder(encoder, num_labels=1).pretrained
        predict = CrossEncoder(pair, compute_dtype=compute_dtype, token_budget="tuned", offline=offline).predict
    if compute_dtype != "float32":
        encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, token_budget="tuned", offline=offline)
    times = measure(
        encoder, texts, predict=predict, sample=pairs or 1, seed=seed, show_progress_bar=sys.stderr.isatty()
    )
    report(times, model, cross_encoder or f"{Path(model).name} with an untrained head", texts)
    print(f"\npeak memory {_peak_mib():.0f} MiB; {os.cpu_count()} cores, {compute_dtype}")
    if out is not None:
        save_plot(out, times, title=Path(model).name)
        print(f"plot        {out}")
    return 0


def report(times: "PairwiseCost", model: str, cross_name: str, texts: list[str]) -> None:
    """Print the measured times next to the paper's."""
    from minisbert.mining.pairwise_cost import PUBLISHED, duration

    cross = times.cross_seconds
    here = {
        "cross-encoder": "not measured" if cross is None else f"{duration(cross)} *",
        "embedding": duration(times.embed_seconds),
        "comparing": duration(times.compare_seconds),
    }
    rows = [["", "paper, V100, 10,000 sentences", f"here, {times.sentences:,} sentences"]]
    rows += [[step, duration(seconds), here[step]] for step, seconds in PUBLISHED.items()]
    print(f"the most similar of {times.pairs:,} pairs; {model}\n", *columns(rows), sep="\n")
    if cross is not None:
        rate = f"{times.sampled_pairs} pairs at {times.pairs_per_second:.4g} pairs/s"
        print(f"\n* extrapolated from {rate} to all pairs: {cross_name}")
        print(
            f"  {cross / (times.embed_seconds + times.compare_seconds):,.0f} times as long as embedding and comparison"
        )
    print()
    for row in times.best:
        print(f"best pair   {row + 1:6}  {printable(texts[row])}")


def save_plot(out: str, times: "PairwiseCost", *, title: str) -> None:
    """Draw the paper's times and the measured ones as bars on a logarithmic scale."""
    from minisbert.mining.pairwise_cost import PUBLISHED, duration

    here = {"embedding": times.embed_seconds, "comparing": times.compare_seconds}
    if times.cross_seconds is not None:
        here["cross-encoder"] = times.cross_seconds
    figure, axes = new_figure(9, 4)
    for label, seconds, colour, hatch, shift in (
        ("paper: V100, 10,000 sentences", PUBLISHED, "#E69F00", "///", -0.2),
        (f"this machine, {times.sentences:,} sentences", here, "#0072B2", "", 0.2),
    ):
        places = [place + shift for place, step in enumerate(PUBLISHED) if step in seconds]
        values = [seconds[step] for step in PUBLISHED if step in seconds]
        axes.barh(places, values, 0.38, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, value in zip(places, values, strict=True):
            axes.annotate(duration(value), (value, place), (5, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_yticks(range(len(PUBLISHED)), ["cross-encoder\n(here extrapolated)", "embedding", "comparing"])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, logarithmic (less is better)")
    axes.set_title(f"the most similar pair: {title}", loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, out)


def _peak_mib() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)  # bytes on macOS, else KiB


def _texts(count: int, corpus: str | None, column: str, seed: int) -> list[str]:
    if corpus is None:
        from minisbert.data.synthetic import make_sentences

        # A few short sentences are generated twice, and would be the best pair.
        return list(dict.fromkeys(make_sentences(count + count // 4 + 10, seed)))[:count]
    texts = [text for text in read_sentences(corpus, column).texts if text.strip()]
    if len(texts) < count:
        raise DataError(f"{corpus}: {len(texts)} sentences. Expected {count}; pass --sentences {len(texts)}.")
    return texts[:count]
