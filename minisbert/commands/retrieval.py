"""`minisbert retrieval`: how well a model finds the documents that people judged relevant.

minisbert retrieval all-MiniLM-L6-v2 cranfield --json scores.json
minisbert retrieval all-MiniLM-L6-v2 cranfield --bm25          # BM25 alone and both fused, too
minisbert retrieval all-MiniLM-L6-v2 cranfield --bm25 --rerank my-cross-encoder    # and each of them reranked
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands.outputs import check_output, whole_file
from minisbert.errors import InputError


def retrieval(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    folder: Annotated[Positional[str], arg(metavar="FOLDER")],
    *,
    split: Annotated[str, arg(metavar="NAME")] = "test",
    similarity: Literal["cosine", "dot"] | None = None,
    graded: bool = False,
    bm25: bool = False,
    rerank: Annotated[str | None, arg(metavar="MODEL")] = None,
    candidates: Annotated[int, arg(metavar="N")] = 100,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
    json: Annotated[str | None, arg(metavar="FILE")] = None,
    offline: bool = False,
) -> int:
    """Score a model on finding the relevant documents of a collection.

    Prints accuracy, precision, recall, MRR, nDCG and MAP times 100, as sentence-transformers computes them.

    Example: minisbert retrieval all-MiniLM-L6-v2 cranfield

    Args:
        model: a folder, a known name, or a name on the hub.
        folder: corpus.jsonl, queries.jsonl and qrels.tsv or qrels/SPLIT.tsv, as BEIR has them (each also .gz).
        split: which of qrels/.
        similarity: by default the model's.
        graded: nDCG by how relevant documents are, as BEIR's tables have it.
        bm25: score BM25 too, and both by reciprocal rank fusion (bm25s must be installed).
        rerank: a cross-encoder (a folder, or a name on the hub) that scores each query with what was found first.
        candidates: how many of them; metrics that look further down, such as map@100, then see no more than these.
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        json: also write the scores here.
        offline: never open a socket.
    """
    if json is not None:
        check_output(json, (".json",))
    if candidates < 1:
        raise InputError(f"--candidates is {candidates}. Expected at least 1.")

    from minisbert import CrossEncoder, SentenceEncoder
    from minisbert.evaluation.retrieval import evaluate_rankings, index_of, rankings_of, read_retrieval
    from minisbert.search.bm25 import BM25
    from minisbert.search.fusion import Hybrid
    from minisbert.search.rerank import Reranked

    # The collection, and what may not be installed, before any model: a mistake is known at once.
    data = read_retrieval(folder, split)
    words = BM25(*data.texts_and_ids()) if bm25 else None
    encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, offline=offline)
    reranker: Any = None if rerank is None else CrossEncoder(rerank, compute_dtype=compute_dtype, offline=offline)
    if reranker is not None and reranker.num_labels != 1:
        raise InputError(
            f"{rerank} has {reranker.num_labels} labels. Expected 1, a score to sort by; use another model."
        )
    index = index_of(encoder, data, similarity=similarity, show_progress_bar=sys.stderr.isatty())
    searchers: dict[str, Any] = {model: index}
    if words is not None:
        searchers |= {"BM25": words, "both, by reciprocal rank fusion": Hybrid([index, words])}
    if reranker is not None:
        # The logits: an activation keeps their order, but rounding could make ties.
        options: dict[str, Any] = {"activation_fn": "identity", "on_truncate": "ignore"}
        options["show_progress_bar"] = sys.stderr.isatty()
        searchers |= {
            f"{name}, then {rerank}": Reranked(searcher, reranker, candidates=candidates, **options)
            for name, searcher in searchers.items()
        }
    record: dict[str, Any] = {"folder": folder, "split": split, "graded": graded, "scores": {}}
    for name, searcher in searchers.items():
        result = evaluate_rankings(data, rankings_of(searcher, data), graded=graded)
        print(f"{name}\n{result}\n")
        record["scores"][name] = result.scores
    if json is not None:
        from json import dumps

        with whole_file(Path(json)) as temporary:
            temporary.write_text(dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0
