"""The cost of the most similar pair: what is counted and timed, with a fake clock; the report and the plot."""

import numpy as np
import pytest

from minisbert import InputError
from minisbert.commands.pairwise_cost import _texts, report, save_plot
from minisbert.mining.pairwise_cost import PUBLISHED, PairwiseCost, measure, sampled_pairs


class Clock:
    """A clock that only the stand-ins below advance."""

    now = 0.0

    def __call__(self):
        return self.now

    def takes(self, seconds, result):
        self.now += seconds
        return result


def stand_ins(clock, seen):
    class Encoder:
        def encode(self, texts, **options):
            seen.append(len(texts))
            vectors = np.array([[np.cos(len(text)), np.sin(len(text))] for text in texts])
            return clock.takes(0.01 * len(texts), vectors)

    def predict(pairs):
        seen.append([*pairs])
        return clock.takes(0.5 * len(pairs), np.zeros(len(pairs)))

    return Encoder(), predict


def test_measured_and_extrapolated():
    clock, seen = Clock(), []
    encoder, predict = stand_ins(clock, seen)
    texts = ["a" * n for n in (1, 2, 3, 4, 5)] + ["b" * 3] + ["x" * 300] * 0
    times = measure(encoder, texts, predict=predict, sample=8, clock=clock)
    assert times.best == (2, 5) and (times.sentences, times.pairs, times.sampled_pairs) == (6, 15, 8)
    assert times.embed_seconds == pytest.approx(0.06) and times.compare_seconds == 0
    assert times.pairs_per_second == pytest.approx(2) and times.cross_seconds == pytest.approx(7.5)
    assert seen[:2] == [6, 6] and seen[2] == seen[3] and all(pair[0] in texts for pair in seen[2])


def test_without_a_cross_encoder():
    encoder, _ = stand_ins(Clock(), [])
    times = measure(encoder, ["a", "bb"], clock=Clock())
    assert times.cross_seconds is None and times.best == (0, 1)


def test_sampled_pairs():
    pairs = sampled_pairs(4, 300)
    assert pairs == sampled_pairs(4, 300) != sampled_pairs(4, 300, seed=1)
    assert set(pairs) == {(i, j) for i in range(4) for j in range(4) if i != j}


def test_mistakes():
    encoder, predict = stand_ins(Clock(), [])
    for texts, sample, message in [(["a"], 4, "1 sentences"), (["a", 3], 4, "3"), (["a", "b"], 0, "sample is 0")]:
        with pytest.raises(InputError, match=message):
            measure(encoder, texts, predict=predict, sample=sample)


def test_the_article():
    assert PairwiseCost(10_000, 0, 0.0, 5.0, 0.01, (0, 1)).pairs == 49_995_000
    assert PUBLISHED["cross-encoder"] / 3600 == 65


@pytest.mark.parametrize("sampled", [0, 16])
def test_report_and_plot(sampled, capsys, tmp_path):
    texts = ["a red\x1b[31m car", "a car", "a dog"]
    times = PairwiseCost(3, sampled, 10.0, 0.5, 0.002, (0, 1))
    report(times, "MODEL", "the cross-encoder", texts)
    save_plot(str(tmp_path / "plot.png"), times, title="$x$")
    out = capsys.readouterr().out
    assert "3 pairs; MODEL" in out and "65 hours" in out and "0.01 s" in out and "a red [31m car" in out
    assert ("extrapolated from 16 pairs at 10 pairs/s" in out) == bool(sampled)
    assert ("not measured" in out) == (not sampled)
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_made_sentences_are_distinct():
    assert len(set(_texts(3000, None, "text", 0))) == 3000
