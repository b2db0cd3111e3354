"""The command line as a whole: help, exit codes, and how it ends early."""

import gzip
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minisbert
from minisbert.commands import COMMANDS, main
from minisbert.commands.loading import CHARACTERS, load_encoder
from minisbert.inference import numpy_engine

sys.path.insert(0, str(Path(__file__).parent))
from test_verify import known_as

HEAVY = ("jax", "flax", "numpy", "tokenizers", "safetensors", "matplotlib", "pyarrow", "huggingface_hub")


def command(name):
    name = name.replace("-", "_")
    return getattr(importlib.import_module(f"minisbert.commands.{name}"), name)


def test_help_lists_every_command_with_one_line(run):
    result = run("--help")
    assert result.code == 0
    for name in COMMANDS:
        purpose = command(name).__doc__.splitlines()[0]
        assert f"  {name:<15}{purpose}\n" in result.out


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    code = (
        f"import sys; from minisbert.commands import main; code = main({words!r}); "
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


# Run in a process of its own: few short texts go to NumPy, and nothing imports JAX.
WITH_NUMPY = """
import sys
from minisbert.commands import main

model, folder = sys.argv[1:]
for words in (
    ["similarity", model, "a dog", "a cat"],
    ["encode", folder + "/texts.txt", "--model", model, "--out", folder + "/auto.npy"],
    ["search", "a dog", "--corpus", folder + "/texts.txt", "--model", model, "--top", "1", "--save-index", folder + "/index"],
    ["search", "a dog", "--index", folder + "/index", "--model", model, "--engine", "numpy"],
):
    assert main(words) == 0
print([name for name in ("jax", "flax", "scipy", "matplotlib") if name in sys.modules])
"""


def test_a_few_short_texts_start_no_jax(tiny_bert, tmp_path, run, monkeypatch):
    (tmp_path / "texts.txt").write_text("a dog sleeps\na woman sings\na dog\n")
    done = subprocess.run([sys.executable, "-c", WITH_NUMPY, tiny_bert, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    # The same by JAX, when it is named or when there is too much text to be read before it has started.
    words = ["encode", tmp_path / "texts.txt", "--model", tiny_bert, "--out", tmp_path / "jax.npy", "--engine", "jax"]
    assert run(*words).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "auto.npy"), np.load(tmp_path / "jax.npy"), rtol=0, atol=1e-6)
    for engine, texts, options, chosen in (
        ("auto", ["a" * CHARACTERS], {}, "numpy"),
        ("auto", ["a" * CHARACTERS, "a"], {}, "jax"),
        ("auto", ["a"], {"compute_dtype": "bfloat16"}, "jax"),
        ("numpy", ["a" * CHARACTERS] * 2, {}, "numpy"),
        ("jax", ["a"], {}, "jax"),
    ):
        assert load_encoder(tiny_bert, texts, engine, **options).engine == chosen
    monkeypatch.delitem(numpy_engine.ENCODERS, "albert")  # as of a family that only JAX computes
    assert load_encoder(str(Path(tiny_bert).with_name("tiny-albert")), ["a"], "auto").engine == "jax"
    assert f"{CHARACTERS:,} characters" in run("encode", "--help").out
    refused = run(*words[:-1], "numpy", "--compute-dtype", "bfloat16")
    assert refused.code == 2 and "use engine='jax'" in refused.err


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "minisbert", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"minisbert {minisbert.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_works(name, run, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    example = re.search(r"^Example: (.*)$", run(name, "--help").out, re.MULTILINE).group(1)
    words = [tiny_bert if word.startswith("all-") else word for word in shlex.split(example)]
    stdin = b""
    if words[0] == "echo":
        stdin, words = words[1].encode() + b"\n", words[3:]
    if name == "evaluate":
        rows = b"score\tsentence1\tsentence2\n5\ta cat\ta cat sits\n1\ta dog\tx\n"
        Path("stsb_dev.tsv.gz").write_bytes(gzip.compress(rows))
    if name == "pairwise-cost":
        pytest.importorskip("minisbert.cross_encoder.encoder", reason="no cross-encoder in this tree")
    if name in ("search", "mine", "cluster"):
        Path("sentences.txt").write_text("a man eats\na dog barks\n")
    if name == "retrieval":
        Path("cranfield").mkdir()
        Path("cranfield/corpus.jsonl").write_text('{"_id": "d1", "text": "a cat"}\n{"_id": "d2", "text": "a dog"}\n')
        Path("cranfield/queries.jsonl").write_text('{"_id": "q1", "text": "a cat"}\n')
        Path("cranfield/qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    if name == "verify":  # the tiny model as a catalogued one, with its own embeddings as goldens
        known_as(tiny_bert, monkeypatch)
    if name == "train":
        rows = "".join(f"a man walk\tthe man run {i}\n" for i in range(4))
        Path("pairs.tsv").write_text("anchor\tpositive\n" + rows)
    assert words[0] == "minisbert"
    result = run(*words[1:], stdin=stdin)
    assert result.code == 0, result.err


def test_no_command(run):
    result = run()
    assert result.code == 2
    assert result.out.startswith("usage: minisbert COMMAND")


def test_unknown_command(run):
    result = run("enocde")
    assert result.code == 2
    assert result.err.startswith("minisbert: error: 'enocde' is not a command. Expected one of demo, encode,")


@pytest.mark.parametrize(
    "words", [["encode"], ["demo", "--ot", "x"], ["encode", "-", "--model", "m", "--batch-size", "x"]]
)
def test_wrong_flags_are_explained(words, run):
    result = run(*words)
    assert result.code == 2
    assert "--help" in result.err


def test_an_unknown_name_is_one_clear_error(run):
    result = run("similarity", "no-such-model", "a", "b")
    assert result.code == 2
    assert result.err.startswith("minisbert: error: 'no-such-model' is not the name of a model")


def test_interrupted(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("minisbert.commands._run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "minisbert: interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "minisbert", "--version"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"minisbert: error: stdout: cannot be written (No space left on device). Make room.\n"


def test_a_reader_that_leaves_is_no_error(tiny_bert):
    # Nobody reads from the start, so that the first flush already fails.
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "minisbert", "inspect", tiny_bert], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
