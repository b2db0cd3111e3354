"""`minisbert similarity`: how alike two sentences are, or each with each of several.

minisbert similarity all-mpnet-base-v2 "a man eats" "someone has a meal"
"""

from typing import Annotated

from tyro.conf import Positional, arg

from minisbert.commands.outputs import check_output
from minisbert.commands.tables import matrix_lines, numbered


def similarity(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    a: Annotated[Positional[str], arg(metavar="A")],
    b: Annotated[Positional[str], arg(metavar="B")],
    more: Annotated[Positional[tuple[str, ...]], arg(metavar="[MORE ...]")] = (),
    *,
    out: Annotated[str | None, arg(metavar="PNG")] = None,
    offline: bool = False,
) -> int:
    """Score how alike sentences are.

    Example: minisbert similarity all-mpnet-base-v2 "a man eats" "someone has a meal"

    Args:
        model: a folder, a known name, or a name on the hub.
        a: a sentence.
        b: another one.
        more: still others; then each is scored with each.
        out: also draw the scores as a heat-map.
        offline: never open a socket.
    """
    if out is not None:
        check_output(out, (".png",))

    from minisbert import SentenceEncoder

    sentences = [a, b, *more]
    encoder = SentenceEncoder.load(model, offline=offline)
    embeddings = encoder.encode(sentences)
    scores = encoder.similarity(embeddings, embeddings)
    if more:
        print("\n".join(numbered(sentences)))
        print()
        print("\n".join(matrix_lines(scores)))
    else:
        print(f"{scores[0, 1]:.6f}")
    if out is not None:
        from minisbert.commands.heatmap import save_heatmap

        save_heatmap(out, scores, sentences, title=f"{model}: {encoder.similarity_fn_name} similarity")
    return 0
