"""STS scores against scipy, the bootstrap against its definition, and STS-B dev against sentence-transformers."""

import gzip
import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from minisbert import DataError, DownloadError, InputError, SentenceEncoder
from minisbert.download.locate import locate
from minisbert.evaluation.bootstrap import pooled
from minisbert.evaluation.sts import STSPairs, compare, compare_sts, evaluate_sts, read_sts, sts_score

DATA = Path(__file__).parents[2].parent / "shared" / "data"
# sentence-transformers 6.2.0, torch 2.13.0 (CPU, float32), all-MiniLM-L6-v2: EmbeddingSimilarityEvaluator with the four
# similarities over the 1,500 pairs of STS-B dev, in the order of the file. name: (Spearman, Pearson)
PEER_STSB_DEV = {
    "cosine": (0.8671631190, 0.8696194554),
    "dot": (0.8671631190, 0.8696194580),
    "euclidean": (0.8671631190, 0.8678715956),
    "manhattan": (0.8663946132, 0.8670398968),
}


class Table:
    """An encoder that looks embeddings up, and counts what it is asked."""

    def __init__(self, seed: int = 0, noise: float = 1.0):
        self.seed, self.noise, self.asked = seed, noise, []

    def encode(self, sentences, **options):
        self.asked += sentences
        return np.stack([self.embed(sentence) for sentence in sentences])[:, : options.get("truncate_dim")]

    def embed(self, sentence: str) -> np.ndarray:
        """Topic plus noise: "3-17" has topic 3."""
        topic, number = map(int, sentence.split("-"))
        shared = np.random.default_rng([1, topic]).normal(size=8)
        return shared + self.noise * np.random.default_rng([self.seed + 2, topic, number]).normal(size=8)


def made(name: str, count: int, seed: int = 0) -> STSPairs:
    """Pairs of one topic have high scores, of two low ones; scores have ties."""
    rng = np.random.default_rng(seed)
    first, second, gold = [], [], []
    for i in range(count):
        same = bool(rng.integers(2))
        topic = int(rng.integers(50))
        first.append(f"{topic}-{i % 7}")
        second.append(f"{topic if same else topic + 50}-{i % 5 + 10}")
        gold.append(round(float(np.clip(4 * same + rng.normal(), 0, 5)), 1))
    return STSPairs(name, tuple(first), tuple(second), tuple(gold))


def expected(pairs: STSPairs, encoder: Table) -> dict[str, np.ndarray]:
    a, b = (np.stack([encoder.embed(s) for s in side]) for side in (pairs.first, pairs.second))
    dot = (a * b).sum(1)
    return {
        "cosine": dot / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1),
        "dot": dot,
        "euclidean": -np.linalg.norm(a - b, axis=1),
        "manhattan": -np.abs(a - b).sum(1),
    }


def test_scores_equal_scipy():
    pairs, encoder = made("toy", 200), Table()
    result = evaluate_sts(encoder, pairs, resamples=10)
    for name, similarity in expected(pairs, encoder).items():
        score = result.score(similarity=name)
        assert score.pairs == 200
        assert score.spearman.value == pytest.approx(stats.spearmanr(pairs.gold, similarity).statistic, abs=1e-4)
        assert score.pearson.value == pytest.approx(stats.pearsonr(pairs.gold, similarity).statistic, abs=1e-6)
        # Exactly, of the similarities that the result holds (float32, so ties may differ from those in float64).
        held = result.similarities[0][name]
        assert score.spearman.value == pytest.approx(stats.spearmanr(pairs.gold, held).statistic, abs=1e-12)


def test_both_protocols_by_name():
    sets, encoder = [made("one", 40, 1), made("two", 90, 2)], Table()
    result = evaluate_sts(encoder, sets, resamples=10)
    cosines = [expected(part, encoder)["cosine"] for part in sets]
    single = [stats.spearmanr(part.gold, c).statistic for part, c in zip(sets, cosines, strict=True)]
    together = stats.spearmanr(sets[0].gold + sets[1].gold, np.concatenate(cosines)).statistic
    assert result.score("mean of subsets").spearman.value == pytest.approx(np.mean(single), abs=1e-4)
    assert result.score("pooled").spearman.value == pytest.approx(together, abs=1e-4)
    assert result.score() == result.score("pooled") and result.score().pairs == 130
    lines = str(result).splitlines()
    assert "95 % intervals" in lines[0] and len(lines) == 1 + 4 * 4
    assert lines[9].startswith("pooled") and lines[13].startswith("mean of subsets")


def test_each_distinct_sentence_is_encoded_once():
    encoder = Table()
    sets = [made("one", 300, 1), made("two", 300, 2)]
    evaluate_sts(encoder, sets, resamples=1)
    assert sorted(encoder.asked) == sorted({s for part in sets for s in (*part.first, *part.second)})


def test_bootstrap_draws_equal_scipy_on_the_draw():
    rng = np.random.default_rng(0)
    gold, series = rng.integers(0, 6, 30).astype(float), rng.normal(size=(2, 30))
    draws = pooled([(gold, series)], 5, np.random.default_rng(3))
    drawn = np.random.default_rng(3).integers(0, 30, (5, 30))
    for r, pairs in enumerate(drawn):
        for m in range(2):
            assert draws[0, m, r] == pytest.approx(stats.spearmanr(gold[pairs], series[m, pairs]).statistic)
            assert draws[1, m, r] == pytest.approx(stats.pearsonr(gold[pairs], series[m, pairs]).statistic)


def test_intervals_are_seeded_and_cover():
    """Of normal pairs the Pearson interval is close to Fisher's, and the same seed gives the same one."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    group = [(a, (0.8 * a + 0.6 * rng.normal(size=400))[None])]
    first, second = (pooled(group, 1000, np.random.default_rng(7)) for _ in range(2))
    assert (first == second).all()
    value = pooled(group, 1, None)[1, 0, 0]
    fisher = np.tanh(np.arctanh(value) + np.array([-1.96, 1.96]) / np.sqrt(400 - 3))
    assert np.quantile(first[1, 0], [0.025, 0.975]) == pytest.approx(fisher, abs=0.012)


def test_paired_comparison():
    pairs = made("toy", 300)
    good, bad, twin = (
        evaluate_sts(Table(seed, noise), pairs, resamples=50) for seed, noise in ((0, 0.5), (0, 3.0), (1, 0.5))
    )
    (better,) = compare_sts(bad, good)
    assert better.difference.low > 0 and better.p_value <= 2 / 1001 + 1e-12
    assert compare(Table(0, 3.0), Table(0, 0.5), pairs) == better
    (worse,) = compare_sts(good, bad)
    assert worse.difference.value == -better.difference.value and "p = 0.00" in str(worse)
    (same,) = compare_sts(good, twin)
    assert same.difference.low < 0 < same.difference.high and same.p_value > 0.05
    (equal,) = compare_sts(good, good)
    assert equal.difference == (0, 0, 0) and equal.p_value == 1
    assert [c.name for c in compare_sts(*[evaluate_sts(Table(), [pairs, made("b", 50)], resamples=0)] * 2)] == [
        "pooled",
        "mean of subsets",
    ]
    with pytest.raises(InputError, match="not for the same pairs"):
        compare_sts(good, evaluate_sts(Table(), made("toy", 300, 5), resamples=0))


# --- files ---------------------------------------------------------------------------------------------------------

ROWS = [("a cat", 'a "dog', 1.5), ("é", "b", 4.0), ("c", "d", 3)]


def test_scores_of_numpy_and_texts_are_numbers():
    pairs = [STSPairs("toy", ("a", "b"), ("c", "d"), gold) for gold in (tuple(np.array([0, 2])), ("0", "2"), (0, 2.0))]
    assert pairs[0] == pairs[1] == pairs[2] and set(map(type, pairs[0].gold)) == {float}
    assert STSPairs("toy", ("a", "b"), ("c", "d"), (1, 2**70)).gold[1] == 2.0**70


def test_a_draw_of_equal_values_has_no_correlation():
    gold_P, series_MP = np.array([0.1] * 5 + [0.9]), np.arange(6.0)[None]
    spearman_R, pearson_R = pooled([(gold_P, series_MP)], 1000, np.random.default_rng(0))[:, 0]
    assert np.isnan(spearman_R).sum() > 100
    np.testing.assert_array_equal(np.isnan(pearson_R), np.isnan(spearman_R))


@pytest.mark.parametrize("score", ["score", "relatedness", "label"])
@pytest.mark.parametrize("kind", ["tsv", "tsv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_kind_of_file(tmp_path, kind, score):
    path = tmp_path / f"sts.{kind}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        columns = dict(zip(("sentence1", "sentence2", score), map(list, zip(*ROWS, strict=True)), strict=True))
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    else:
        if kind.startswith("tsv"):
            lines = [f"id\t{score}\tsentence1\tsentence2"] + [f"7\t{s}\t{a}\t{b}" for a, b, s in ROWS]
        else:
            lines = [json.dumps({"sentence1": a, "sentence2": b, score: s}) for a, b, s in ROWS]
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    pairs = read_sts(path)
    assert list(zip(pairs.first, pairs.second, pairs.gold, strict=True)) == ROWS


def test_columns_by_name(tmp_path):
    path = tmp_path / "sts.tsv"
    path.write_text("q\td\ty\tscore\na\tb\t1\tx\nc\td\t2\tx\n")
    assert read_sts(path, ("q", "d"), "y").gold == (1.0, 2.0)


HEAD = "sentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        (HEAD, ["no rows"]),
        (HEAD + "a\tb\t1\n", ["1 pair(s)", "at least 2"]),
        (HEAD + "a\tb\t1\nc\td\t1\n", ["gold score is 1 for all 2 pairs"]),
        (HEAD + "a\tb\t1\nc\td\tnan\n", ["line 3", "'score' is 'nan'", "finite number"]),
        (HEAD + "a\tb\t1\nc\td\tinf\n", ["line 3", "'inf'"]),
        (HEAD + "a\tb\t1\nc\td\thigh\n", ["line 3", "'high'"]),
        (HEAD + "a\tb\t1\nc\t\t2\n", ["line 3", "'sentence2' is ''"]),
        (HEAD + "a\tb\t1\nc\td\n", ["line 3", "2 cell(s)", "3"]),
        ("sentence1\tsentence2\tpoints\na\tb\t1\n", ["'score/relatedness/similarity/...'", "'points'"]),
        ("a\tb\tscore\na\tb\t1\n", ["'sentence1/premise/text1/...'"]),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, words):
    path = tmp_path / "sts.tsv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_sts(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("value", "word"), [(0.0, "is 0 for all 3 pairs"), (np.nan, "pair 0: the model's cosine is nan")]
)
def test_bad_embeddings_are_refused(value, word):
    class Broken:
        def encode(self, sentences, **options):
            return np.full((len(sentences), 4), value)

    with pytest.raises(DataError, match=word):
        evaluate_sts(Broken(), STSPairs("toy", ("a", "b", "c"), ("d", "e", "f"), (1.0, 2.0, 3.0)))


def test_rows_in_memory_are_read_like_a_file(tmp_path):
    rows = [{"sentence1": f"{i}-1", "sentence2": f"{i * i % 7}-2", "score": float(i % 5)} for i in range(9)]
    path = tmp_path / "sts.tsv"
    path.write_text("sentence1\tsentence2\tscore\n" + "".join("\t".join(map(str, r.values())) + "\n" for r in rows))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    sources = [rows, columns, [tuple(row.values()) for row in rows], (columns,)]
    if importlib.util.find_spec("pandas"):
        sources.append(importlib.import_module("pandas").DataFrame(rows))
    expected = evaluate_sts(Table(), path).score().spearman
    for source in sources:
        assert evaluate_sts(Table(), source).score().spearman == expected
        assert sts_score(source)(Table()) == expected.value
        truncated = evaluate_sts(Table(), source, truncate_dim=2, resamples=0).score().spearman.value
        assert sts_score(source, truncate_dim=2)(Table()) == truncated
        assert compare(Table(), Table(), source, resamples=5).difference.value == 0
    two = evaluate_sts(Table(), (columns, str(path)), resamples=0)
    assert [score.pairs for score in two.scores[:1]] + [len(two.pairs)] == [9, 2]


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="pairs is empty"):
        evaluate_sts(Table(), [])
    with pytest.raises(InputError, match="confidence"):
        evaluate_sts(Table(), made("toy", 5), confidence=95)
    with pytest.raises(InputError, match="no score for 'other'"):
        evaluate_sts(Table(), made("toy", 5), resamples=0).score("other")
    with pytest.raises(DataError, match="3, 2 and 3"):
        STSPairs("toy", ("a", "b", "c"), ("a", "b"), (1.0, 2.0, 3.0))


# --- the real thing ------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_stsb_dev_scores_equal_sentence_transformers():
    file = DATA / "sts" / "stsb_dev.tsv.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    try:
        locate("all-MiniLM-L6-v2", offline=True)
    except DownloadError as error:
        pytest.skip(f"all-MiniLM-L6-v2 is not on this machine: {error}")
    encoder = SentenceEncoder.load("all-MiniLM-L6-v2", offline=True)
    result = evaluate_sts(encoder, read_sts(file), resamples=200)
    for name, (spearman, pearson) in PEER_STSB_DEV.items():
        score = result.score(similarity=name)
        # Of correlations times 100. Measured: 1e-4 (euclidean; ties that fall apart), else below 1e-4.
        assert 100 * abs(score.spearman.value - spearman) <= 2e-4
        assert 100 * abs(score.pearson.value - pearson) <= 2e-4
        assert score.spearman.low < score.spearman.value < score.spearman.high
