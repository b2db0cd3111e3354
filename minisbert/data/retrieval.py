"""A retrieval collection: documents, queries, and which document people judged relevant to which query.

A folder has BEIR's layout (Thakur et al. 2021); each file may also be a .jsonl, .tsv, .csv (or these with .gz) or .parquet:

    corpus.jsonl                         {"_id": ..., "title": ..., "text": ...}     title may be missing or null
    queries.jsonl                        {"_id": ..., "text": ...}
    qrels.tsv, or qrels/SPLIT.tsv        query-id (or query_id), corpus-id (or doc_id), score; without a header TREC's four
                                         columns (query, iteration, document, score), or three, between tabs or spaces
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minisbert.data.rows import RowFile
from minisbert.data.values import as_number, text
from minisbert.errors import DataError, short_repr

logger = logging.getLogger("minisbert")

ENDINGS = ("jsonl", "tsv", "csv", "parquet")
QUERY_IDS, DOCUMENT_IDS = ("query-id", "query_id"), ("corpus-id", "corpus_id", "doc_id")


@dataclass(frozen=True)
class RetrievalData:
    """Documents, queries, and which document is relevant to which query.

    Args:
        corpus: document id -> text.
        queries: query id -> text.
        relevant: query id -> document id -> gain; 0 or less is not relevant. Or the documents alone, as a set or list.

    Raises:
        DataError: a judged query is missing, its documents are something else, or no query has a relevant document.
    """

    name: str
    corpus: Mapping[str, str] = field(repr=False)
    queries: Mapping[str, str] = field(repr=False)
    relevant: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        for query, documents in self.relevant.items():
            if not isinstance(documents, Mapping | set | frozenset | list | tuple):
                raise DataError(
                    f"{self.name}, query {query!r}: {short_repr(documents)}. Expected a dict of id to gain, or a set or list "
                    "of ids."
                )
            if query not in self.queries:
                raise DataError(
                    f"{self.name}: query {query!r} has judgements, but is not among the queries. Expected it there; add it."
                )
        gains = {q: one if isinstance(one, Mapping) else dict.fromkeys(one, 1.0) for q, one in self.relevant.items()}
        object.__setattr__(self, "relevant", gains)
        if not self.judged():
            raise DataError(f"{self.name}: no query has a relevant document. Expected judgements above 0.")
        absent = {one for docs in self.relevant.values() for one, gain in docs.items() if gain > 0} - self.corpus.keys()
        if absent:
            logger.warning(
                f"{self.name}: {len(absent)} relevant documents ({min(absent)!r}, ...) are not in the corpus and count as not "
                "found."
            )

    def judged(self) -> list[str]:
        """The queries that count: those with a relevant document."""
        return [q for q in self.queries if any(gain > 0 for gain in self.relevant.get(q, {}).values())]

    def texts_and_ids(self) -> tuple[list[str], list[str]]:
        """The documents sorted by id, so that ties rank as in sentence-transformers."""
        ids = sorted(self.corpus)
        return [self.corpus[one] for one in ids], ids


def read_retrieval(folder: str | Path, split: str = "test") -> RetrievalData:
    """Read a collection in BEIR's layout (see the top of this file); title and text are joined by a space.

    Args:
        split: which file of `qrels/`; a `qrels.tsv` next to the corpus has no splits.

    Raises:
        DataError: a file is missing, damaged or there in two formats, an id occurs twice, a value is malformed.
    """
    folder = Path(folder)
    corpus = _texts(_file(folder, "corpus.jsonl"), ("title", "text"))
    queries = _texts(_file(folder, "queries.jsonl"), ("text",))
    relevant: dict[str, dict[str, float]] = {}
    for place, (query, document, score) in _judgements(_file(folder, "qrels.tsv", f"qrels/{split}.tsv")):
        gains = relevant.setdefault(_id(query, "query-id", place), {})
        document = _id(document, "corpus-id", place)
        if document in gains:
            raise DataError(f"{place}: query {query!r} and document {document!r} are judged twice. Remove one.")
        gains[document] = as_number(score, "score", place)
    return RetrievalData(str(folder), corpus, queries, relevant)


def _file(folder: Path, *names: str) -> RowFile:
    """The one file of these names, in any format that holds rows."""
    found = []
    for name in names:
        stem, _, usual = name.rpartition(".")
        files = [
            folder / f"{stem}.{ending}{zipped}" for ending in dict.fromkeys((usual, *ENDINGS)) for zipped in ("", ".gz")
        ]
        found += [file for file in files if file.is_file()]
    if len(found) > 1:
        first, second = (file.relative_to(folder) for file in found[:2])
        raise DataError(f"{folder}: both {first} and {second}. Expected one of them; move the other away.")
    if found:
        return RowFile(found[0])
    raise DataError(
        f"{folder}: no {' or '.join(names)} (or .{', .'.join(ENDINGS)}; or .gz). Expected a folder in BEIR's layout; check the "
        "path."
    )


def _judgements(file: RowFile) -> Iterator[tuple[str, Sequence[Any]]]:
    """Each judgement's place, and its query id, document id and score."""
    first = file.header[0].split() if len(file.header) == 1 else file.header
    if len(first) not in (3, 4) or not re.fullmatch("-?[0-9]+", first[-1]):
        yield from file.rows([file.first_of(*names) for names in (QUERY_IDS, DOCUMENT_IDS, ("score",))])
        return
    # No header: TREC's columns, between tabs or spaces.
    names = (
        ("query", *["iteration"] * (len(first) - 3), "document", "score") if len(file.header) > 1 else ("judgement",)
    )
    for place, cells in RowFile(file.source, names).rows(names):
        cells = cells if len(names) > 1 else cells[0].split()
        if len(cells) not in (0, len(first)):
            raise DataError(f"{place} has {len(cells)} columns. Expected {len(first)} as on the first line.")
        if cells:
            yield place, (cells[0], *cells[-2:])


def _texts(file: RowFile, columns: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    ids = file.first_of("_id", "id")
    if file.kind != "jsonl" and "title" not in file.header:
        columns = ("text",)
    for place, (one, *parts) in file.rows((ids, *columns), optional=("title",)):
        one = _id(one, ids, place)
        if one in found:
            raise DataError(f"{place}: {ids!r} is {one!r}, as on an earlier line. Expected unique ids; rename one.")
        # Collections contain empty documents, which are ranked like any other.
        texts = [
            text(p if p is not None else "", name, place, blank=True) for p, name in zip(parts, columns, strict=True)
        ]
        found[one] = " ".join(filter(None, texts))
    return found


def _id(value: Any, column: str, place: str) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value, column, place)
