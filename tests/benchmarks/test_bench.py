"""bench.py: its arithmetic on hand-made numbers, its texts, and races against contestants defined here."""

import json
import os
import re
import shlex
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import bench_peers
import bench_rounds
import numpy as np
import pytest
from bench import REFERENCES, bench, join_sentences, main
from bench_peers import CONTESTANTS, Contestant
from bench_report import Measure, differences, mean_tokens, measure_record, ratios, spread
from bench_training import minisbert_step

from minisbert.data.synthetic import make_sentences
from minisbert.download.locate import locate
from minisbert.errors import DataError, DownloadError, InputError, MinisbertError

# Contestants that embed in no time: one of each kind of luck. They are a program of their own, as the real ones are.
PROGRAM = """
import os, sys, numpy as np
from bench_peers import Contestant, Loaded
from bench_worker import serve

def embed(texts):
    print("a library that talks on stdout")
    return np.array([[len(text), 1.0] + [0.0] * 30 for text in texts], np.float32)

def die(texts):
    print("out of luck", file=sys.stderr)
    os._exit(3)

def train(folder):
    return lambda texts: 0.0

def refuse(folder, workplace):
    raise ValueError("no format for\\n this model")

def load(encode):
    return lambda folder, workplace: Loaded(encode, "cpu")

sys.exit(serve([
    *(
        Contestant(name, dtype, "", (), load(embed), trainer=train)
        for name in ("fast", "minisbert")
        for dtype in ("float32", "bfloat16")
    ),
    Contestant("dies", "float32", "", (), load(die)),
    Contestant("refuses", "float32", "", (), load(embed), refuse),
], sys.argv[1:]))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Replaces the real contestants; `fake("fast", "float32")` makes one."""
    program = tmp_path / "contestants.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(bench_rounds, "PAUSE", 0)

    def make(name: str, dtype: str = "float32", needs: tuple[str, ...] = ()) -> Contestant:
        prepare = print if name == "refuses" else None  # what it does is the program's business
        return Contestant(name, dtype, name, needs, print, prepare, trainer=print, program=(str(program),))

    def use(*contestants: Contestant) -> None:
        monkeypatch.setattr(bench_peers, "CONTESTANTS", contestants)

    make.use = use
    return make


@pytest.fixture
def rates_are_given(monkeypatch):
    """The rates of products are measured in a process of its own, for 2 s; `test_a_race` measures them."""
    monkeypatch.setattr("bench.get_context", lambda way: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr("profile_forward.matrix_rates", lambda: {"float32": 1e9, "bfloat16": 1e9})


# --- arithmetic ----------------------------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    # Everything is twice as slow in the second round; the ratios do not see it.
    assert ratios([10, 5], [4, 2]) == [2.5, 2.5]
    assert spread([3, 9, 4]) == (4, 3, 9)


def test_a_record_of_numbers_made_by_hand():
    measure = Measure("short", "short sentences", "per s", True, lambda seconds: 12 / sum(seconds), 1)
    raw = {
        "minisbert float32": [[1], [2], [2]],  # 12, 6, 6 per second
        "slow float32": [[4], [4], [3]],  # 3, 3, 4
        "quick float32": [[2], [3], [2]],  # 6, 4, 6
        "quick bfloat16": [[1], [1], [1]],
    }
    record = measure_record(measure, raw)
    json.dumps(record)
    assert record["best_peer"] == {"float32": "quick float32", "bfloat16": "quick bfloat16"}
    rows = record["contestants"]
    assert rows["minisbert float32"]["spread"] == {"median": 6, "low": 6, "high": 12}
    assert rows["minisbert float32"]["ratios"] is None
    assert rows["slow float32"]["ratios"] == {"each": [4, 2, 1.5], "median": 2, "low": 1.5, "high": 4}
    assert rows["quick float32"]["ratios"]["each"] == [2, 1.5, 1]
    # No minisbert of the same dtype ran, and another one is not put in its place.
    assert rows["quick bfloat16"]["ratios"] is None


def test_the_best_peer_where_lower_is_better():
    measure = Measure("memory", "peak memory", "MiB", False, sum, 0)
    record = measure_record(measure, {"minisbert float32": [[50]], "a float32": [[200]], "b float32": [[100]]})
    assert record["best_peer"] == {"float32": "b float32"}
    assert record["contestants"]["b float32"]["ratios"]["median"] == 0.5


def test_differences_to_the_best_witness(tmp_path):
    base = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    turned = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    arrays = {"minisbert float32": turned, "sentence-transformers float32": base, "wide float32": np.ones((2, 3))}
    files = {key: tmp_path / f"{key}.npy" for key in arrays}
    for key, array in arrays.items():
        np.save(files[key], array)
    found = differences(files, REFERENCES)
    assert {one["reference"] for one in found.values()} == {"sentence-transformers float32"}
    assert found["sentence-transformers float32"]["embedding"] == 0
    assert found["minisbert float32"]["embedding"] == 1
    assert found["minisbert float32"]["score"] == pytest.approx(0.2)  # cosine 0.8 instead of 0.6
    assert found["wide float32"]["embedding"] is None
    del files["sentence-transformers float32"]
    assert differences(files, REFERENCES)["wide float32"]["reference"] == "minisbert float32"
    assert differences({"wide float32": files["wide float32"]}, REFERENCES) == {}


# --- texts ---------------------------------------------------------------------------------------------------------


def test_sentences_are_the_same_everywhere_and_unlike_each_other():
    texts = make_sentences(2000)
    assert texts[:2] == [
        "This bridge repairs his new grandmother before his lukewarm city",
        "Their unexpected accordion explains while their Berlin explains some handmade man under her man without "
        "this bank?",
    ]
    assert texts == make_sentences(2000) != make_sentences(2000, seed=1)
    assert len(set(texts)) > 1990


def test_lengths_spread_as_in_real_text():
    words = np.array([len(text.split()) for text in make_sentences(5000)])
    assert 9 < words.mean() < 9.6
    assert words.min() == 2 and 25 <= words.max() <= 36
    low, high = np.percentile(words, [5, 95])
    assert low <= 5 and high >= 15


@pytest.mark.real
def test_tokens_of_a_real_tokenizer():
    try:
        folder = locate("all-MiniLM-L6-v2", offline=True)
    except DownloadError:
        pytest.skip("all-MiniLM-L6-v2 is not at hand")
    texts = make_sentences(5000)
    assert mean_tokens(folder, texts) == pytest.approx(13.6, abs=0.3)
    assert mean_tokens(folder, join_sentences(texts, 100)) == pytest.approx(230, abs=8)


def test_long_texts_begin_again_where_sentences_run_out():
    one, two = join_sentences(["a cat sits", "dogs bark"], 2)
    assert one.startswith("a cat sits dogs bark a cat sits")
    assert 176 <= len(one.split()) <= 178 and 176 <= len(two.split()) <= 178


# --- training --------------------------------------------------------------------------------------------------------


def test_a_training_step_learns(tiny_bert):
    texts = make_sentences(16)
    step = minisbert_step(Path(tiny_bert), dtype="float32")
    losses = [step(texts) for _ in range(40)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.usefixtures("rates_are_given")
def test_training_contestants_take_turns(fake, tiny_bert, tmp_path, capsys):
    fake.use(fake("minisbert"), fake("fast"))
    assert bench(model=tiny_bert, workload=("train",), count=9, rounds=2, peer=("fast",)) == 0
    printed = capsys.readouterr().out
    assert "train: 8 texts" in printed and "training on pairs" in printed
    few = tmp_path / "few.txt"
    few.write_text("a cat\na dog\na man\n")
    with pytest.raises(InputError, match=r"3 sentences of .*few.txt for --workload train\. Expected 4, two pairs"):
        bench(model=tiny_bert, workload=("train",), texts=str(few), rounds=1)


# --- races ---------------------------------------------------------------------------------------------------------


def test_a_race(fake, tiny_bert, tmp_path, capsys):
    minisbert = next(one for one in CONTESTANTS if one.key == "minisbert float32")
    missing = fake("absent", needs=("no-such-distribution",))
    fake.use(minisbert, fake("fast"), fake("dies"), fake("refuses"), missing)
    out, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    code = bench(model=tiny_bert, workload=("short", "one"), count=5, rounds=2, out=str(out), plot=str(plot))
    assert code == 0
    printed, progress = capsys.readouterr()
    record = json.loads(out.read_text())

    assert set(record) == {
        *("command", "date", "model", "machine", "versions", "rounds", "devices", "texts"),
        *("matrix_rates", "measures", "differences", "raw", "left_out"),
    }
    assert set(record["measures"]) == {"short", "one p50", "one p95"}
    for part in record["measures"].values():
        assert set(part) == {"title", "unit", "better", "contestants", "best_peer"}
        assert set(part["contestants"]) == {"minisbert float32", "fast float32"}
        ours, theirs = (part["contestants"][key]["figures"] for key in ("minisbert float32", "fast float32"))
        assert part["contestants"]["fast float32"]["ratios"]["each"] == ratios(ours, theirs)
        assert part["best_peer"] == {"float32": "fast float32"}
    for key in ("minisbert float32", "fast float32"):
        assert [len(seconds) for seconds in record["raw"]["short"][key]] == [1, 1]
        assert [len(seconds) for seconds in record["raw"]["one"][key]] == [5, 5]
    assert record["differences"]["short"]["fast float32"]["reference"] == "minisbert float32"
    assert record["differences"]["one"]["fast float32"]["embedding"] > 1
    assert record["texts"]["short"]["count"] == 5
    share = record["measures"]["short"]["contestants"]["fast float32"]["spread"]["median"]
    share *= record["texts"]["short"]["operations"] / record["matrix_rates"]["float32"]
    assert re.search(rf" fast +float32 .* {share:.0%}", printed)
    assert record["machine"]["cores"] >= 1 and record["versions"]["minisbert"]
    assert record["left_out"] == {
        "absent float32": "not installed: no-such-distribution",
        "dies float32": "short: its process ended with code 3: out of luck",
        "refuses float32": "prepare: ValueError: no format for this model",
    }

    assert "\nshort sentences, per s (higher is better)\n" in printed
    assert "\none sentence, p95, ms (lower is better)\n" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert [row[:3] for row in rows].count(["*", "fast", "float32"]) == 3
    assert "  dies float32: short: its process ended with code 3: out of luck\n" in printed
    assert "short: round 2 of 2" in progress and "dies float32 is out" in progress
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.usefixtures("rates_are_given")
def test_new_processes_for_start_and_memory(fake, tiny_bert, tmp_path, capsys):
    fake.use(fake("minisbert"), fake("fast"))
    out = tmp_path / "bench.json"
    assert bench(model=tiny_bert, workload=("cold", "memory"), count=2, rounds=1, out=str(out)) == 0
    record = json.loads(out.read_text())
    assert list(record["measures"]) == ["cold", "cold empty", "memory"]
    for part in record["measures"].values():
        for row in part["contestants"].values():
            assert len(row["figures"]) == 1 and min(row["figures"]) > 0
    assert record["measures"]["memory"]["contestants"]["fast float32"]["spread"]["low"] > 5  # MiB; NumPy alone is more
    assert record["differences"] == {}


@pytest.mark.usefixtures("rates_are_given")
def test_without_float32_a_witness_is_asked_but_not_timed(fake, tiny_bert, tmp_path, capsys):
    fake.use(fake("minisbert"), fake("minisbert", "bfloat16"))
    out = tmp_path / "bench.json"
    assert (
        bench(model=tiny_bert, workload=("short",), count=2, rounds=1, compute_dtype=("bfloat16",), out=str(out)) == 0
    )
    record = json.loads(out.read_text())
    assert list(record["measures"]["short"]["contestants"]) == ["minisbert bfloat16"]
    assert record["differences"]["short"]["minisbert bfloat16"]["reference"] == "minisbert float32"
    assert "minisbert ran alone. pip install 'minisbert[bench]' brings" in capsys.readouterr().out


@pytest.mark.usefixtures("rates_are_given")
def test_texts_from_a_file(fake, tiny_bert, tmp_path, capsys):
    fake.use(fake("minisbert"))
    file, out = tmp_path / "talk.txt", tmp_path / "bench.json"
    file.write_text("a cat sits\n\na dog barks\n")
    assert bench(model=tiny_bert, workload=("short", "long"), texts=str(file), rounds=1, out=str(out)) == 0
    record = json.loads(out.read_text())
    assert record["texts"]["short"]["count"] == 2 and record["texts"]["long"]["count"] == 200
    assert record["texts"]["long"]["mean_tokens"] == 64  # as many as the model reads


def test_minisbert_itself_must_run(fake, tiny_bert, capsys):
    fake.use(replace(fake("minisbert"), program=("-c", "raise SystemExit('no luck')")))
    with pytest.raises(MinisbertError, match=r"minisbert float32 failed.*no luck"):
        bench(model=tiny_bert, workload=("short",), count=1, rounds=1)


def test_every_real_contestant_can_be_asked_for():
    keys = [one.key for one in CONTESTANTS]
    assert len(set(keys)) == len(keys)
    assert set(REFERENCES) <= set(keys)
    assert all(one.dtype in ("float32", "bfloat16") and one.needs for one in CONTESTANTS)


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"peer": ("tensorflow",)}, InputError, "--peer is tensorflow. Expected installed, none, or some of sentence-"),
        ({"peer": ("none", "openvino")}, InputError, "--peer is none openvino"),
        ({"peer": ()}, InputError, "--peer is empty"),
        ({"count": 0}, InputError, "--count is 0"),
        ({"rounds": 0}, InputError, "--rounds is 0"),
        ({"workload": ()}, InputError, "--workload is empty"),
        ({"compute_dtype": ()}, InputError, "--compute-dtype is empty"),
        ({"out": "bench.csv"}, InputError, "Expected a name that ends in .json"),
        ({"plot": "bench.pdf"}, InputError, "Expected a name that ends in .png"),
        ({"texts": "none.txt"}, DataError, "none.txt: no such file"),
        ({"texts": "empty.txt"}, InputError, "empty.txt: no sentence that is not empty"),
        ({"texts": "two.txt", "count": 3}, InputError, "--count is 3, but two.txt has 2 sentences"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("two.txt").write_text(f"a cat{os.linesep}a dog\n")
    with pytest.raises(error) as caught:
        bench(model="no-such-model", **options)
    assert message in str(caught.value)


@pytest.mark.usefixtures("rates_are_given")
def test_the_example_of_the_help_runs(fake, tiny_bert, monkeypatch, capsys):
    fake.use(fake("minisbert"))
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["--help"])
    example = shlex.split(re.search(r"^Example: (.*)$", capsys.readouterr().out, re.MULTILINE).group(1))
    assert example[:2] == ["python", "tests/benchmarks/bench.py"]
    assert main([tiny_bert if word.startswith("all-") else word for word in example[2:]]) == 0
    assert main(["--model", tiny_bert, "--rounds", "0"]) == 2 and "--rounds is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--model", tiny_bert, "--workload", "evil"])
    assert caught.value.code == 2
