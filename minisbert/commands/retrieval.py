"""`minisbert retrieval`: score how well a model finds the documents that people judged relevant."""

import sys
from typing import Any, Literal

from tyro.conf import Positional

from minisbert.commands import flags
from minisbert.commands.outputs import check_output, write_json
from minisbert.errors import InputError


def retrieval(
    model: Positional[flags.Model],
    folder: Positional[flags.Folder],
    *,
    split: flags.Name = "test",
    similarity: Literal["cosine", "dot"] | None = None,
    graded: bool = False,
    ignore_identical_ids: bool = False,
    bm25: bool = False,
    rerank: flags.OptionalModel = None,
    candidates: flags.N = 100,
    compute_dtype: flags.ComputeDtype = "float32",
    json: flags.OptionalFile = None,
    offline: flags.Offline = False,
) -> int:
    """Score a model on finding the relevant documents of a collection.

    Prints accuracy, precision, recall, MRR, nDCG and MAP times 100, as sentence-transformers computes them.

    Example: minisbert retrieval all-MiniLM-L6-v2 cranfield

    Args:
        folder: corpus.jsonl, queries.jsonl and qrels.tsv or qrels/SPLIT.tsv in BEIR's layout; also .csv and others.
        split: the file in qrels/.
        similarity: cosine or dot; by default that of the model.
        graded: compute nDCG from graded relevance, as in BEIR's tables.
        ignore_identical_ids: never find the document with the query's own id, as in BEIR's tables (ArguAna, Quora).
        bm25: also score BM25, and both by reciprocal rank fusion (needs bm25s).
        rerank: also rerank the best documents with this cross-encoder (a folder, or a name on the hub).
        candidates: documents per query to rerank; metrics such as map@100 then see no more than these.
        json: also write the scores to this file.
    """
    check_output(json, (".json",))
    flags.at_least_one("--candidates", candidates)

    from minisbert import CrossEncoder, SentenceEncoder
    from minisbert.data.retrieval import read_retrieval
    from minisbert.evaluation.retrieval import evaluate_rankings, index_of, rankings_of
    from minisbert.search.bm25 import BM25
    from minisbert.search.fusion import Hybrid
    from minisbert.search.rerank import Reranked

    # The collection and the optional library are loaded before any model, so that errors show immediately.
    data = read_retrieval(folder, split)
    words = BM25(*data.texts_and_ids()) if bm25 else None
    options: dict[str, Any] = {"compute_dtype": compute_dtype, "token_budget": "tuned", "offline": offline}
    encoder = SentenceEncoder(model, **options)
    reranker = None if rerank is None else CrossEncoder(rerank, **options)
    if reranker is not None and reranker.num_labels != 1:
        raise InputError(
            f"{rerank} has {reranker.num_labels} labels. Expected 1, a score to sort by; use another model."
        )
    index = index_of(encoder, data, similarity=similarity, show_progress_bar=sys.stderr.isatty())
    searchers: dict[str, Any] = {model: index}
    if words is not None:
        searchers |= {"BM25": words, "both, by reciprocal rank fusion": Hybrid([index, words])}
    if reranker is not None:
        # Logits: an activation preserves their order, but rounding could create ties.
        options = {"activation_fn": "identity", "on_truncate": "ignore", "show_progress_bar": sys.stderr.isatty()}
        for name, searcher in list(searchers.items()):
            searchers[f"{name}, then {rerank}"] = Reranked(searcher, reranker, candidates=candidates, **options)
    scores = {}
    for name, searcher in searchers.items():
        rankings = rankings_of(searcher, data, ignore_identical_ids=ignore_identical_ids)
        result = evaluate_rankings(data, rankings, graded=graded)
        print(f"{name}\n{result}\n")
        scores[name] = result.scores
    settings = {"folder": folder, "split": split, "graded": graded, "ignore_identical_ids": ignore_identical_ids}
    write_json(json, {**settings, "scores": scores})
    return 0
