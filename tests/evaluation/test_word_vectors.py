"""evaluation/word_vectors.py: means of word vectors from the wheel's two files, and files that do not belong together."""

import numpy as np
import pytest

from minisbert.errors import InputError
from minisbert.evaluation.word_vectors import AveragedWords

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(folder, words, vectors):
    parquet.write_table(pyarrow.table({"index": words}), folder / "some_index.parquet")
    np.save(folder / "some_emb.npy", np.asarray(vectors, np.float32))


def test_the_mean_of_the_known_words_whatever_their_case(tmp_path):
    write(tmp_path, ["the", "cat", "."], [[1, 0], [0, 3], [2, 0]])
    found = AveragedWords.load(tmp_path).encode(["The cat.", "CAT", "unheard", ""])
    np.testing.assert_allclose(found, [[1, 1], [0, 3], [0, 0], [0, 0]])


def test_a_single_text_gives_one_vector():
    words = AveragedWords({"a": 0, "cat": 1}, np.eye(2))
    assert words.encode("a cat").tolist() == [0.5, 0.5]
    assert words.encode(text for text in ("a", "cat")).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(InputError, match=r"sentences\[0\] is 5"):
        words.encode([5])


def test_missing_files_and_files_of_different_length_are_refused(tmp_path):
    with pytest.raises(InputError, match="Expected one of each"):
        AveragedWords.load(tmp_path)
    write(tmp_path, ["the", "cat"], [[1, 0]])
    with pytest.raises(InputError, match="for 2 words"):
        AveragedWords.load(tmp_path)
