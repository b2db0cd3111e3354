"""`minisbert similarity`: score how similar two sentences are, or each pair of several."""

from typing import Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import Engine, Model, Offline, Png
from minisbert.commands.outputs import check_output, save_heatmap
from minisbert.commands.tables import matrix_lines, numbered


def similarity(
    model: Positional[Model],
    a: Annotated[Positional[str], arg(metavar="A")],
    b: Annotated[Positional[str], arg(metavar="B")],
    more: Annotated[Positional[tuple[str, ...]], arg(metavar="[MORE ...]")] = (),
    *,
    out: Png = None,
    engine: Engine = "auto",
    offline: Offline = False,
) -> int:
    """Score how similar sentences are.

    Example: minisbert similarity all-mpnet-base-v2 "a man eats" "someone has a meal"

    Args:
        a: a sentence.
        b: another sentence.
        more: more sentences; all pairs are then scored.
        out: also draw the scores as a heat map.
    """
    check_output(out, (".png",))

    from minisbert.commands.loading import load_encoder

    sentences = [a, b, *more]
    encoder = load_encoder(model, sentences, engine, offline=offline)
    embeddings = encoder.encode(sentences)
    scores = encoder.similarity(embeddings, embeddings)
    if more:
        print(*numbered(sentences), "", *matrix_lines(scores), sep="\n")
    else:
        print(f"{scores[0, 1]:.6f}")
    if out is not None:
        save_heatmap(out, scores, sentences, title=f"{model}: {encoder.similarity_fn_name} similarity")
    return 0
