"""Every command in README, CONTRIBUTING, docs/ and the course runs on a tiny model, in the order of the pages.

What a test cannot run is in `NOT_RUN`, each with its reason; its files, flags, markers and names are checked all the same.
"""

import configparser
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from documents import (
    COURSE,
    DOCUMENTS,
    ROOT,
    TINY,
    blocks,
    commands,
    flags_of,
    ladder,
    read,
    spans,
    write_data,
)
from test_verify import known_as

from minisbert.commands import COMMANDS
from minisbert.download.locate import locate
from minisbert.errors import MinisbertError

# How a command begins -> why no test runs it. The longest that fits counts.
NOT_RUN = {
    "minisbert demo": "needs the real model; .ci/run runs both demos word for word",
    "minisbert tune": "measures this machine for minutes; tests/inference/test_tune.py",
    "--offline": "needs the real model in the cache, where the test below runs it",
    "--cluster": "needs a pod",
    "--chip": "the TPU's compiler takes minutes; tests/training/test_tpu_compile.py compiles small programs",
    "/mnt/run": "the 100,000 steps of the recipe, which tests/training/test_plan.py plans",
    "gcloud": "needs Google's cloud; the flags of the command in it are looked up",
    "srun": "needs SLURM; the flags of the command in it are looked up",
    "--coordinator": "needs four hosts; tests/training/two_hosts.py starts two",
    "--loss pearson": "the reader's own loss; tests/training/test_new_loss.py writes it and runs this",
    "python -m pip": "installs; .ci/run does, but for the install without JAX, which takes a machine without it",
    "pip install": "installs; .ci/run installs test, docs, notebooks and parity, and the names of all extras are looked up",
    "pip download": "fetches 60 MB of GloVe",
    "pre-commit": "needs a git repository with hooks",
    "python -m pytest": "is what runs this",
    "pytest": "is what runs this, or another extra's tests; the files, markers and names are looked up below",
    "mkdocs": "tests/pages/test_pages.py builds the site",
    "python tests/parity/": "sentence-transformers and hours",
    "python tests/training/two_hosts.py": "minutes; tests/training/test_multihost.py runs it with two hosts",
    "python tests/training/many_devices.py": "minutes; tests/training/test_sharding.py runs it, a group at a time",
    "python tests/training/test_tpu_compile.py": "minutes; its tests compile two small programs",
    "python tests/training/": "minutes",
    "python tests/benchmarks/": "minutes, and other libraries; tests/benchmarks runs small ones",
    "python tests/fuzz/": "minutes; tests/fuzz has a short run",
    "python tests/bad_inputs/": "minutes; tests/bad_inputs/test_battery.py runs the fast half",
    "python tests/faults/": "minutes; tests/faults has short runs",
    "python tests/endurance/": "minutes; tests/endurance has a short run",
    "python tests/notebooks/": ".ci/run runs all notebooks",
    "python notebooks/sbert_in_one_file.py": "tests/notebooks/test_one_file.py",
    "python notebooks/table_1.py": "minutes, and data of others; tests/notebooks/test_table_1.py runs it on samples",
    "python notebooks/one_story.py": "needs the real model; tests/test_readme.py draws where it is cached",
    "jupyter lab": "opens a window",
    "minisbert train ...": "what is left out differs from reader to reader; the flags are looked up",
    "minisbert train --": "names a flag",
}
# What is added so that a command is quick.
EXTRA = {"pairwise-cost": ["--sentences", "50", "--pairs", "0"]}
# These take a table of vectors for the model, which compiles in a second and not in ten, unless it must be a transformer.
# tests/training trains transformers.
WITH_A_TABLE = ("pairwise-cost", "train")
ALL = [*dict.fromkeys([*(command for document in (*DOCUMENTS, *COURSE) for command in commands(document)), *ladder()])]


def reason(command: str) -> str | None:
    return next((why for part, why in NOT_RUN.items() if command.startswith(part) or f" {part}" in command), None)


RUN = [command for command in ALL if reason(command) is None]


def tiny_words(command: str) -> list[str]:
    """The words of a command after `minisbert`, with the tiny model for the named ones."""
    words = shlex.split(command)[1:]
    quick = words[0] in WITH_A_TABLE and not {"--cross-encoder", "--lora-rank"} & set(words)
    model = TINY.with_name("tiny-static") if quick else TINY
    return [str(model) if word.startswith("all-M") else word for word in words] + EXTRA.get(words[0], [])


def test_there_is_something_to_run():
    assert {command.split()[0] for command in RUN} == {"minisbert"}
    assert len(RUN) > 20
    assert [part for part in NOT_RUN if not any(command.startswith(part) or part in command for command in ALL)] == []


@pytest.mark.parametrize("of", ["the documents", "the ladder"])
def test_every_command_runs(of, run, tmp_path, monkeypatch):
    """In one folder, one after the other, as a reader would; a rung of the ladder in a folder of its own."""
    pytest.importorskip("bm25s", reason='pip install -e ".[bm25]" brings what `retrieval --bm25` needs')
    pytest.importorskip("flatbuffers", reason='pip install -e ".[export]" brings what `export` needs')
    known_as(str(TINY), monkeypatch)
    rungs = of == "the ladder"
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    for number, command in enumerate(command for command in RUN if (command in ladder()) == rungs):
        words = tiny_words(command)
        words = [word.replace("runs/first", f"runs/{number}") if rungs else word for word in words]
        result = run(*words)
        assert result.code == 0, f"{command}\n{result.err}"
        written = re.findall(r"--(?:out|html|follow|map) (\S+)", command)
        assert [name for name in written if not Path(name).exists()] == [], command


@pytest.mark.real
@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_shown_is_what_is_printed(document, run):
    for block in blocks(document):
        if block.language != "bash" or block.prints is None:
            continue
        try:
            locate("all-MiniLM-L6-v2", offline=True)
        except MinisbertError:
            pytest.skip("all-MiniLM-L6-v2 is not in the cache; `minisbert download all-MiniLM-L6-v2` fetches it")
        (command,) = block.code.splitlines()
        result = run(*shlex.split(command)[1:])
        assert result.code == 0, result.err
        # The last digits are the machine's.
        assert [float(number) for number in result.out.split()] == pytest.approx(
            [float(number) for number in block.prints.split()], abs=2e-6
        )


@pytest.mark.real
def test_the_offline_command_finds_what_is_in_the_cache(run):
    (command,) = [command for command in ALL if "--offline" in command]
    try:
        locate("all-MiniLM-L6-v2", offline=True)
    except MinisbertError:
        pytest.skip("minisbert download all-MiniLM-L6-v2")
    assert run(*shlex.split(command)[1:]).code == 0


@pytest.mark.parametrize("command", ALL)
def test_its_files_flags_and_names_are_there(command):
    words = shlex.split(command)
    flags = {word for word in words if word.startswith("--")}
    if words[:3] in (["python", "-m", "pip"], ["python", "-m", "pytest"]):
        words = words[2:]
    paths = [word for word in words if re.match(r"(tests|notebooks|minisbert|weights)(/|$)", word)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    if words[:2] == ["minisbert", "--help"]:
        return
    if words[0] == "minisbert":
        assert words[1] in COMMANDS
        assert flags <= {*flags_of(words[1]), "--help"}
    elif words[0] == "python":
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        # argparse spells a flag, tyro makes it of a parameter.
        parameters = {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", source, re.MULTILINE)}
        assert [flag for flag in flags - parameters if f'"{flag}"' not in source] == []
    elif words[0] == "pip":
        extras = [extra for word in words for extra in re.findall(r"\[([\w-]+)\]", word)]
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(extras) <= set(project["optional-dependencies"])
    elif words[0] == "pytest":
        given = [words[i + 1] for i, word in enumerate(words) if word == "-m"]
        marked = [marker.removeprefix("not ") for one in given for marker in one.split(" or ")]
        markers = [line.split(":")[0] for line in config["tool:pytest"]["markers"].split("\n")]
        assert set(marked) <= set(markers)
        for name in (words[i + 1] for i, word in enumerate(words) if word == "-k"):
            files = [ROOT / path for path in paths] or [ROOT / "tests"]
            tests = [test for path in files for test in ([path] if path.is_file() else path.rglob("test_*.py"))]
            assert any(re.search(rf"def test_\w*{name}|{name}", test.read_text(encoding="utf-8")) for test in tests)
    else:
        assert words[0] in ("jupyter", "mkdocs", "pre-commit", "gcloud", "srun")
        for name, rest in re.findall(r"minisbert (train|encode) ([^'&]*)", command):
            assert set(re.findall(r"--[a-z-]+", rest)) <= flags_of(name)


def test_the_accepted_columns_are_in_the_help_and_in_the_guide(run):
    from minisbert.data.conventions import CONVENTIONS

    first = {names[0].replace("{i}", "") for it in CONVENTIONS.values() for names in (*it.texts, *it.labels)}
    shown, guide = run("train", "--help").out, read("docs/guides/train.md")
    assert [name for name in sorted(first) if f"`{name}`" not in guide] == []
    of_pairs = {name for name in first if "_" not in name} - {"margin"}
    assert [name for name in sorted(of_pairs) if not re.search(rf"\b{name}\b", shown)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_in_a_sentence_is_one(document):
    known = {"--help", "--no-deps"}.union(*map(flags_of, COMMANDS))  # pip's
    places = [path for room in ("tests", "notebooks") for path in (ROOT / room).rglob("*.py")]
    scripts = [path.read_text(encoding="utf-8") for path in places]
    named = {word for span in spans(document) for word in span.split() if word.startswith("--")}
    assert [
        flag for flag in named - known if not any(re.search(rf'add_argument\(\s*"{flag}"', one) for one in scripts)
    ] == []
