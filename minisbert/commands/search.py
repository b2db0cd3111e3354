"""`minisbert search`: find the lines of a file that are most similar to a query.

minisbert search --corpus sentences.txt --model all-MiniLM-L6-v2 --save-index sentences.index --queries queries.txt
minisbert search --index sentences.index --model all-MiniLM-L6-v2                  # reads queries from the terminal
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands import flags
from minisbert.commands.outputs import STANDARD, json_line
from minisbert.data.columns import Sentences, read_sentences, stream_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    from minisbert.search.index import Index
    from minisbert.search.searcher import Hit

PART = 1024  # queries per batch, so that results for a long file appear as it is read


def search(
    query: Annotated[Positional[tuple[str, ...]], arg(metavar="[QUERY ...]")] = (),
    *,
    model: flags.Model,
    corpus: flags.OptionalFile = None,
    index: flags.OptionalFolder = None,
    queries: flags.OptionalFile = None,
    save_index: flags.OptionalFolder = None,
    top: flags.N = 5,
    json: bool = False,
    column: flags.Column = "text",
    precision: Literal["float32", "int8", "binary"] = "float32",
    backend: Literal["exact", "faiss", "usearch"] = "exact",
    hybrid: bool = False,
    trust_graph: bool = False,
    engine: flags.Engine = "auto",
    compute_dtype: flags.ComputeDtype = "float32",
    offline: flags.Offline = False,
) -> int:
    """Find the texts that are most similar to a query.

    Queries come from the command line, from a file, or otherwise from the terminal, one per line. Each hit is printed with
    its rank, score, id (the line number) and text.

    Example: minisbert search "who eats?" --corpus sentences.txt --model all-MiniLM-L6-v2

    Args:
        query: text to search for.
        corpus: the texts: .txt (one per line), .jsonl, .tsv, .csv (each also .gz), .parquet.
        index: a folder written by --save-index, instead of --corpus.
        queries: a file of queries, of the same kinds, or - for lines on stdin.
        save_index: save the texts and their embeddings in this folder.
        top: hits per query.
        json: print one JSON object per line instead: query, rank, score, id, text.
        precision: precision of the embeddings in memory; candidates found with int8 or binary are rescored in float32.
        backend: exact, or a graph of faiss or usearch, which must be installed.
        hybrid: combine with BM25 keyword search (bm25s must be installed).
        trust_graph: with --index, read the graph instead of rebuilding it; only for your own folders.
    """
    if (corpus is None) == (index is None):
        raise InputError("expected either --corpus FILE or --index FOLDER. Pass the texts to search.")
    if query and queries is not None:
        raise InputError("queries are given twice. Expected them either on the command line or in --queries.")
    if index is not None and (save_index is not None or precision != "float32" or backend != "exact"):
        raise InputError("--save-index, --precision and --backend need --corpus; a saved index has its own settings.")
    if corpus == STANDARD and not query and queries in (None, STANDARD) and save_index is None:
        raise InputError(
            "stdin is read for --corpus, so no queries can follow on it. Pass them as words or --queries FILE."
        )
    flags.at_least_one("--top", top)
    texts = read_sentences(corpus, column) if corpus is not None else None
    asked = list(query) if query else None
    if queries not in (None, STANDARD):  # empty lines are skipped, as of stdin
        asked = [text for text in read_sentences(queries, column).texts if text.strip()]

    from minisbert import Index
    from minisbert.commands.loading import load_encoder
    from minisbert.search.fusion import Hybrid

    to_embed = [*(texts.texts if texts is not None else ()), *(asked or ())]
    options: Any = {"compute_dtype": compute_dtype, "token_budget": "tuned", "offline": offline}
    encoder = load_encoder(model, to_embed, engine, **options)
    if index is not None:
        found = Index.load(index, encoder, trust_graph=trust_graph)
    else:
        assert texts is not None
        found = Index(encoder, precision=precision, backend=backend)
        _add(found, texts)
        if save_index is not None:
            found.save(save_index)
    searcher = Hybrid([found, _bm25(found)]) if hybrid else found
    for part in [asked[i : i + PART] for i in range(0, len(asked), PART)] if asked is not None else _typed():
        for one, hits in zip(part, searcher.search(part, top), strict=True):
            _print(one, hits, json)
            sys.stdout.flush()
    return 0


def _add(index: "Index", texts: Sentences) -> None:
    rows = texts.filled()
    if not rows:
        raise DataError(f"{texts.file.source}: contains no text. Expected texts to search.")
    ids = [texts.file.first + row for row in rows]
    index.add([texts.texts[row] for row in rows], ids, show_progress_bar=sys.stderr.isatty())


def _typed() -> Iterator[list[str]]:
    """Queries as they are typed, one at a time, until the input ends; empty lines are skipped."""
    lines = stream_sentences(STANDARD)
    while True:
        if sys.stdin.isatty():
            print("query> ", end="", file=sys.stderr, flush=True)
        line = next(lines, None)
        if line is None:
            return
        if line.strip():
            yield [line.strip()]


def _bm25(index: "Index") -> Any:
    from minisbert.search.bm25 import BM25

    texts = [text for text in index.texts if text is not None]
    if len(texts) < len(index):
        raise InputError("--hybrid needs the texts, which the index does not contain. Index the file again.")
    return BM25(texts, index.ids)


def _print(query: str, hits: "list[Hit]", as_json: bool) -> None:
    if as_json:
        for rank, hit in enumerate(hits, start=1):
            record = {"query": query, "rank": rank, "score": hit.score, "id": hit.id, "text": hit.text}
            print(json_line(record), end="")
        return
    lines = (f"{rank:4}  {hit.score:8.4f}  {hit.id:>8}  {hit.text or ''}".rstrip() for rank, hit in enumerate(hits, 1))
    print(query, *lines, "", sep="\n")
