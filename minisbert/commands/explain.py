"""`minisbert explain`: the pairs of tokens that a similarity comes from."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import N, Offline, OptionalFile, OptionalModel, at_least_one
from minisbert.commands.outputs import check_output
from minisbert.commands.tables import columns, printable
from minisbert.errors import InputError


def explain(
    a: Annotated[Positional[str], arg(metavar="A")],
    b: Annotated[Positional[str], arg(metavar="B")],
    *,
    model: Annotated[str, arg(metavar="MODEL")],
    html: OptionalFile = None,
    follow: OptionalFile = None,
    cross_encoder: OptionalModel = None,
    top: N = 10,
    offline: Offline = False,
) -> int:
    """Show which pairs of tokens a similarity comes from.

    With mean pooling a cosine is exactly a sum over pairs of tokens; the largest terms are printed.

    Example: minisbert explain "a man eats" "someone has a meal" --model all-MiniLM-L6-v2

    Args:
        a: the first text.
        b: the second text.
        model: a folder, a known name, or a name on the hub; its pooling must be a mean.
        html: also write an HTML page with all terms and the attention of every layer and head.
        follow: also write an HTML page that follows text A through the model: every step with its numbers, its shape and its
            line of code.
        cross_encoder: also score the pair with this cross-encoder.
        top: number of terms to print.
    """
    at_least_one("--top", top)
    check_output(html, (".html",))
    check_output(follow, (".html",))
    if html is not None and follow is not None and Path(html).resolve() == Path(follow).resolve():
        raise InputError(f"--html and --follow are both {html}. Expected two files; the pages differ.")

    from minisbert import CrossEncoder, SentenceEncoder
    from minisbert.explain import attribution
    from minisbert.explain.attention import cross_encoder_attention, sentence_attention
    from minisbert.explain.page import Page, check_size, save_page

    encoder = SentenceEncoder.load(model, offline=offline)
    reranker = None if cross_encoder is None else CrossEncoder(cross_encoder, offline=offline)
    found = attribution.explain(encoder, a, b)
    tokens_a, tokens_b = ([printable(token) for token in side] for side in (found.tokens_a, found.tokens_b))
    terms = [(f"{term.contribution:9.6f}", tokens_a[term.a], tokens_b[term.b]) for term in found.largest(top)]
    print(f"{found.cosine:.6f}  cosine, the sum over {len(tokens_a)} x {len(tokens_b)} pairs of tokens:")
    print("\n".join(columns(terms)))
    scored = None
    if reranker is not None:
        scored = str(cross_encoder), reranker.predict([(a, b)]).ravel().tolist()
        print(f"{', '.join(f'{score:.6f}' for score in scored[1])}  {cross_encoder}, which reads both texts together")
    if html is not None:
        check_size(found)
        attention = {"text A": sentence_attention(encoder, a), "text B": sentence_attention(encoder, b)}
        if reranker is not None:
            attention["both texts, by the cross-encoder"] = cross_encoder_attention(reranker, a, b)
        save_page(html, Page(a, b, model, found, attention, scored))
    if follow is not None:
        from minisbert.explain.follow import follow as trace
        from minisbert.explain.follow import save_follow

        save_follow(follow, trace(encoder, a), trace(encoder, b), model, encoder.model_config.model_type)
    return 0
