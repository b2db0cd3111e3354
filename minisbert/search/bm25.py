"""BM25: keyword search by the words that query and text share, a complement to search by embeddings.

    bm25 = BM25(texts, ids)
    bm25.search("where is the cat?", k=10)          # lists of Hit, as `Index.search` returns them

Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", section 3.4, computed by the bm25s
library (extra "bm25") in Lucene's form with its k1 = 1.5, b = 0.75.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minisbert.arguments import as_list, check_finite, check_list, check_positive
from minisbert.errors import InputError, needs, short_repr
from minisbert.search.searcher import Hit, checked_ids


class BM25:
    """Texts indexed by their words.

    Args:
        texts: at least one of them with a word, of at least two letters or digits.
        ids: strings or whole numbers, each once; by default the positions of the texts.
        stopwords: words to ignore: "english", another name or list that bm25s accepts, or None.
        stemmer: maps words to stems (`stemmer(list of words) -> list of words`), such as PyStemmer's.
        k1: how slowly repeated words saturate.
        b: how much a text's length counts, 0 to 1.

    Raises:
        InputError: bm25s is not installed; no text has a word; an argument is out of range.
    """

    def __init__(
        self,
        texts: Sequence[str],
        ids: Sequence[str | int] | None = None,
        *,
        stopwords: str | list[str] | None = "english",
        stemmer: Callable[[list[str]], list[str]] | None = None,
        k1: float = 1.5,
        b: float = 0.75,
    ):
        with needs("BM25 needs bm25s", "bm25", "search with an Index only"):
            import bm25s
        self.texts = check_list("texts", texts)
        if not self.texts:
            raise InputError("texts is empty. Expected at least one text.")
        self.ids = checked_ids(ids, len(self.texts), set())
        if check_finite("k1", k1) < 0 or not 0 <= check_finite("b", b) <= 1:
            raise InputError(f"k1 is {short_repr(k1)}, b {short_repr(b)}. Expected at least 0, and 0 to 1.")
        options = {"stopwords": stopwords or [], "stemmer": stemmer, "show_progress": False, "return_ids": False}
        self._words: Callable[[list[str]], Any] = lambda some: bm25s.tokenize(some, **options)
        words = self._words(self.texts)
        if not any(words):
            raise InputError(
                "texts has no word to index: one of at least two letters or digits that is not in stopwords "
                f"({short_repr(stopwords)}). Expected at least one; check the texts and stopwords."
            )
        self._index = bm25s.BM25(k1=k1, b=b)
        self._index.index(words, show_progress=False)

    def search(self, queries: str | Sequence[str], k: int = 10) -> Any:
        """The k texts that match each query best; a text that shares no word with the query is never found.

        Returns:
            a list of `Hit`, best first (ties: the earlier text first); for several queries a list of such lists.
        """
        some, single = as_list(queries, "queries")
        k = check_positive("k", k)
        found = [self._best(words, k) for words in self._words(some)] if some else []
        return found[0] if single else found

    def _best(self, words: list[str], k: int) -> list[Hit]:
        known = [word for word in words if word in self._index.vocab_dict]
        if not known:
            return []
        scores_M = self._index.get_scores(known)
        rows = np.flatnonzero(scores_M > 0)
        rows = rows[np.argsort(-scores_M[rows], kind="stable")[:k]]
        return [Hit(self.ids[row], float(scores_M[row]), self.texts[row]) for row in rows]
