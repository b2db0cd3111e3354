"""`minisbert retrieval`: how well a model finds the documents that people judged relevant.

minisbert retrieval all-MiniLM-L6-v2 cranfield --json scores.json
minisbert retrieval all-MiniLM-L6-v2 cranfield --bm25          # BM25 alone and both fused, too
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands.outputs import check_output, whole_file


def retrieval(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    folder: Annotated[Positional[str], arg(metavar="FOLDER")],
    *,
    split: Annotated[str, arg(metavar="NAME")] = "test",
    similarity: Literal["cosine", "dot"] | None = None,
    graded: bool = False,
    bm25: bool = False,
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
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        json: also write the scores here.
        offline: never open a socket.
    """
    if json is not None:
        check_output(json, (".json",))

    from minisbert import SentenceEncoder
    from minisbert.tasks.fusion import Hybrid
    from minisbert.tasks.lexical import BM25
    from minisbert.tasks.retrieval import evaluate_rankings, index_of, rankings_of, read_retrieval

    # The collection, and what may not be installed, before any model: a mistake is known at once.
    data = read_retrieval(folder, split)
    words = BM25(*data.texts_and_ids()) if bm25 else None
    encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, offline=offline)
    index = index_of(encoder, data, similarity=similarity, show_progress_bar=sys.stderr.isatty())
    searchers: dict[str, Any] = {model: index}
    if words is not None:
        searchers |= {"BM25": words, "both, by reciprocal rank fusion": Hybrid([index, words])}
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
