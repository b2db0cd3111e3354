"""`minisbert headline`: the most similar pair of 10,000 sentences, in seconds instead of hours.

minisbert headline all-MiniLM-L6-v2
minisbert headline all-mpnet-base-v2 --corpus questions.txt --out headline.png
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands.outputs import check_output, whole_file
from minisbert.data.columns import read_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    from minisbert.mining.pairwise_cost import PairwiseCost


def headline(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    sentences: Annotated[int, arg(metavar="N")] = 10_000,
    corpus: Annotated[str | None, arg(metavar="FILE")] = None,
    column: Annotated[str, arg(metavar="NAME")] = "text",
    pairs: Annotated[int, arg(metavar="N")] = 256,
    cross_encoder: Annotated[str | None, arg(metavar="MODEL")] = None,
    out: Annotated[str | None, arg(metavar="PNG")] = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
    offline: bool = False,
) -> int:
    """Time SBERT's headline: the most similar pair of 10,000 sentences.

    Measures embedding and comparing, and a cross-encoder on a sample of pairs; its time for all pairs is extrapolated.
    Beside them stand the article's figures (Reimers & Gurevych 2019, section 1).

    Example: minisbert headline all-MiniLM-L6-v2 --sentences 50 --pairs 4 --out headline.png

    Args:
        model: a folder, a known name, or a name on the hub.
        sentences: how many.
        corpus: a file to take them from; otherwise they are made from word lists.
        column: which key or column of jsonl, tsv or parquet holds the sentence.
        pairs: how many pairs the cross-encoder scores; 0 leaves it out.
        cross_encoder: its model; by default the model's own encoder with a fresh head, which takes as long as a trained one.
        out: draw the times as bars here.
        seed: of the sentences and the sample of pairs.
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        offline: never open a socket.
    """
    if sentences < 2 or pairs < 0 or seed < 0:
        raise InputError("expected at least 2 --sentences, and --pairs and --seed not below 0.")
    if out is not None:
        check_output(out, (".png",))
    texts = _texts(sentences, corpus, column, seed)

    from bench_report import machine
    from bench_worker import peak_mib

    from minisbert import SentenceEncoder
    from minisbert.mining.pairwise_cost import measure

    encoder = SentenceEncoder.load(model, compute_dtype="float32", offline=offline)
    predict, name = None, cross_encoder or f"{Path(model).name} with a fresh head"
    if pairs:
        from minisbert.cross_encoder.encoder import CrossEncoder

        # Without a head of its own the encoder gets a fresh one; its weights are shared.
        pair = CrossEncoder.from_encoder(encoder, num_labels=1).pretrained if cross_encoder is None else cross_encoder
        predict = CrossEncoder(pair, compute_dtype=compute_dtype, offline=offline).predict
    if compute_dtype != "float32":
        encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, offline=offline)
    times = measure(
        encoder, texts, predict=predict, sample=pairs or 1, seed=seed, show_progress_bar=sys.stderr.isatty()
    )
    report(times, model, name, texts)
    print(f"\npeak memory {peak_mib():.0f} MiB on {(here := machine())['cpu']}, {here['cores']} cores, {compute_dtype}")
    if out is not None:
        save_headline_plot(out, times, title=Path(model).name)
        print(f"plot        {out}")
    return 0


def report(times: "PairwiseCost", model: str, cross_name: str, texts: list[str]) -> None:
    """Print what was measured beside what the article says."""
    from minisbert.commands.mine import printable
    from minisbert.commands.tables import columns
    from minisbert.mining.pairwise_cost import PUBLISHED, duration

    cross = times.cross_seconds
    here = {
        "cross-encoder": "not measured" if cross is None else f"{duration(cross)} *",
        "embedding": duration(times.embed_seconds),
        "comparing": duration(times.compare_seconds),
    }
    rows = [["", "article, V100, 10,000 sentences", f"here, {times.sentences:,} sentences"]]
    rows += [[what, duration(seconds), here[what]] for what, seconds in PUBLISHED.items()]
    print(f"the most similar of {times.pairs:,} pairs; {model}\n")
    print("\n".join(columns(rows)))
    if cross is not None:
        print(
            f"\n* extrapolated from {times.sampled_pairs} pairs at {times.pairs_per_second:.4g} pairs/s to all pairs: "
            f"{cross_name}"
        )
        ratio = cross / (times.embed_seconds + times.compare_seconds)
        print(f"  {ratio:,.0f} times as long as embedding and comparing")
    print()
    for row in times.best:
        print(f"best pair   {row + 1:6}  {printable(texts[row])}")


def save_headline_plot(out: str, times: "PairwiseCost", *, title: str) -> None:
    """Draw the times as bars on a logarithmic scale, the article's beside those of this machine.

    Raises:
        WriteError: the file cannot be written.
    """
    # The Agg canvas directly instead of pyplot: no window system is asked for, and no global state is left.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from minisbert.mining.pairwise_cost import PUBLISHED, duration

    here = {"embedding": times.embed_seconds, "comparing": times.compare_seconds}
    if times.cross_seconds is not None:
        here["cross-encoder"] = times.cross_seconds
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sources: list[tuple[str, dict[str, float], str, str, float]] = [
        ("article: V100, 10,000 sentences", PUBLISHED, "#E69F00", "///", -0.2),
        (f"this machine, {times.sentences:,} sentences", here, "#0072B2", "", 0.2),
    ]
    for label, seconds, colour, hatch, shift in sources:
        places = [place + shift for place, what in enumerate(PUBLISHED) if what in seconds]
        values = [seconds[what] for what in PUBLISHED if what in seconds]
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
    with whole_file(Path(out)) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _texts(count: int, corpus: str | None, column: str, seed: int) -> list[str]:
    if corpus is None:
        from minisbert.data.synthetic import make_sentences

        # A few short ones come twice, and would be the best pair.
        some: dict[str, Any] = dict.fromkeys(make_sentences(count + count // 4 + 10, seed))
        return list(some)[:count]
    texts = [text for text in read_sentences(corpus, column).texts if text.strip()]
    if len(texts) < count:
        raise DataError(f"{corpus}: {len(texts)} sentences. Expected {count}; say --sentences {len(texts)}.")
    return texts[:count]
