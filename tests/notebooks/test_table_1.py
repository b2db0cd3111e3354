"""notebooks/table_1.py: what it masks, and the whole program on small files of our own with a tiny model."""

import gzip
import json
import sys

import jax
import numpy as np
import pytest
from documents import ROOT

from minisbert import SentenceEncoder

sys.path.insert(0, str(ROOT / "notebooks"))
import table_1


def test_what_is_masked():
    rows_BL = np.tile(np.array([101, *range(5, 25), 102, *[0] * 10], np.int32), (400, 1))
    common_V = np.arange(5, 25)
    seen_BL, place_BM, word_BM, weight_BM = table_1.masked(rows_BL, common_V, 103, np.random.default_rng(0))
    assert (weight_BM.sum(axis=1) == 3).all()  # 15 % of 22 tokens
    assert (np.take_along_axis(rows_BL, place_BM, axis=1) == common_V[word_BM])[weight_BM > 0].all()
    seen_BM = np.take_along_axis(seen_BL, place_BM, axis=1)[weight_BM > 0]
    share = (seen_BM == 103).mean(), (seen_BM == common_V[word_BM][weight_BM > 0]).mean()
    assert abs(share[0] - 0.8) < 0.04 and 0.07 < share[1] < 0.15  # masked; as it was, a tenth and some by chance
    untouched = np.ones(rows_BL.shape, bool)
    np.put_along_axis(untouched, place_BM, weight_BM == 0, axis=1)
    assert (seen_BL == rows_BL)[untouched].all() and (seen_BL[:, 22:] == 0).all()


def test_a_training_resumes_at_the_last_score(tmp_path, monkeypatch):
    encoder = SentenceEncoder(ROOT / "weights" / "tiny-bert")
    pairs = [
        {"sentence1": f"a man sees {i}", "sentence2": f"he has {i}", "label": table_1.CLASSES[i % 3]} for i in range(64)
    ]
    scores = iter([1.0, 2.0, 3.0, None, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, *range(1, 10)])

    def sts(*_):
        if (score := next(scores)) is None:
            raise KeyboardInterrupt
        return float(score)

    monkeypatch.setattr(table_1, "sts", sts)

    def make(name):
        return table_1.once(
            tmp_path / name, lambda folder: table_1.finetune(encoder, "softmax", pairs, 8, None, folder)
        )

    with pytest.raises(KeyboardInterrupt):
        make("broken")
    (resumed, its_curve), (whole, curve) = make("broken"), make("whole")
    assert its_curve == curve and curve["mean"] == list(range(1, 10)) and len(curve["loss"]) == 8
    for ours, theirs in zip(*map(jax.tree.leaves, (resumed.params, whole.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not list(tmp_path.rglob("state.npz"))


@pytest.mark.nightly
def test_the_whole_program(tmp_path, monkeypatch, capsys):
    for name, sample in {
        **dict.fromkeys(table_1.NLI, "nli"),
        "nli/snli_cad_train": "nli",
        "nli/snli_dev": "nli",
        "sts/stsb_train": "scored",
        "sts/sick_train": "scored",
        "sts/stsb_dev": "sts",
    }.items():
        file = tmp_path / "data" / f"{name}.tsv.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress((ROOT / "docs" / "samples" / f"{sample}.tsv").read_bytes()))
    monkeypatch.setattr(table_1, "random_bert", lambda: SentenceEncoder(ROOT / "weights" / "tiny-bert"))
    monkeypatch.setattr(table_1, "RARE", 1)
    out, runs = tmp_path / "x.json", tmp_path / "runs"
    words = [
        "table_1.py",
        str(tmp_path / "data"),
        "--steps",
        "8",
        "--pair-steps",
        "2",
        "--runs",
        str(runs),
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", words)
    table_1.main()
    found = json.loads(out.read_text())
    names = {"random", "masked words, 8 steps"}
    trained = {f"{name}, then {loss}" for name in names for loss in ("softmax", "multiple negatives ranking")}
    assert set(found["scores"]) == names | trained | {f"{name}, [CLS]" for name in names}
    assert set(found["class_cosines"]) == set(found["directions"]) == names | trained
    for one in found["directions"].values():
        assert one["share"] == sorted(one["share"]) and len(one["without"]) == len(one["share"]) + 1 == table_1.FEW + 1
    assert one["without"][0] == found["scores"]["masked words, 8 steps, then multiple negatives ranking"][0]
    for one in found["accuracy_of_a_head"].values():
        assert all(0 <= accuracy <= 1 for accuracy in (one["v"], one["u, v, |u - v|"]))
    assert all(-100 <= low <= value <= high <= 100 for value, low, high in found["scores"].values())
    curve = found["curves"]["masked words, 8 steps"]
    assert (
        curve["step"] == [0, *range(1, 9)] and len(curve["loss"]) == 8 and len(curve["mean"]) == len(curve["cls"]) == 9
    )
    curve = found["curves"]["random, then softmax"]
    assert curve["step"] == [0, 1, 2] and len(curve["mean"]) == 3
    dev = {
        row[side] for row in table_1.read(tmp_path / "data/sts/stsb_dev.tsv.gz") for side in ("sentence1", "sentence2")
    }
    assert not dev & set(table_1.texts(tmp_path / "data"))
    capsys.readouterr()
    table_1.main()  # started again, it only scores
    assert "step 8" not in capsys.readouterr().out
