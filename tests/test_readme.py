"""README, CONTRIBUTING and docs/: CI runs the lines of the README word for word, Python blocks run and print what is shown,
and every file and name that they mention exists."""

import importlib
import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, PAGES, ROOT, TINY, blocks, prose, read, spans, table, write_data

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.commands import main
from minisbert.download.locate import locate
from minisbert.errors import MinisbertError

# Names in Python blocks, which tiny models replace.
RERANKER, ENCODER = "cross-encoder/ms-marco-MiniLM-L6-v2", "all-MiniLM-L6-v2"
LAYERS = "all-MiniLM-L12-v2"  # where a page needs a transformer
# What the bash blocks of a page have made before its Python blocks run.
SESSION_NEEDS = {
    "docs/guides/train.md": (
        "train all-MiniLM-L6-v2 runs/nli --data docs/samples/nli.tsv --loss softmax --max-steps 2",
    ),
    "docs/guides/export.md": ("export all-MiniLM-L6-v2 exported --platforms cpu",),
}
PICTURE = ROOT / "notebooks" / "pictures" / "one_story.png"


def code(document: str, language: str) -> list[str]:
    return [block.code for block in blocks(document) if block.language == language]


def test_ci_runs_the_lines_of_the_readme_word_for_word():
    lines = [block.strip() for block in code("README.md", "bash")[:3]]
    install_and_demo, article, install_and_test = lines
    assert "&& minisbert demo" in install_and_demo
    assert article.startswith("minisbert demo all-mpnet-base-v2")
    assert "&& python -m pytest" in install_and_test
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line not in ci] == []


def test_the_readme_is_short():
    words = prose("README.md").split() + [word for block in blocks("README.md") for word in block.code.split()]
    assert len(words) <= 1000


def test_no_block_is_left_out():
    """A new kind of block needs a test that runs it."""
    assert {block.language for document in DOCUMENTS for block in blocks(document)} == {"bash", "python"}
    assert [fence for document in DOCUMENTS for fence in re.findall(r"```\w+ +\w.*", read(document))] == []
    # A command without a fence would be run by no test.
    indented = re.compile(r"^ {4,}(?:minisbert|python|pip|pytest|gcloud|srun) \S.*", re.MULTILINE)
    assert [line for document in DOCUMENTS for line in indented.findall(prose(document))] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_it_names_is_there(document):
    shown = set(re.findall(r"(?:minisbert|weights|tests|notebooks)/[\w./*-]*[\w*]", " ".join(spans(document))))
    # Below the package, as `transformer/prenorm.py`; and without a folder, as `figures.py`.
    short = {span for span in spans(document) if re.fullmatch(r"[\w./-]+\.(py|md|toml|cfg)", span)}
    places = [
        ROOT,
        ROOT / "notebooks",
        ROOT / "tests",
        *(folder for folder in (ROOT / "minisbert").rglob("") if folder.is_dir()),
    ]
    assert [name for name in sorted(shown | short) if not any(next(place.glob(name), None) for place in places)] == []


def test_the_layout_in_contributing_is_that_of_the_imports():
    from test_architecture import ROWS

    block = re.search(r"\n\n((?:    \S.*\n)+)", read("CONTRIBUTING.md"))[1]
    named = [re.findall(r"(\w+)(?:/|\.py)(?=  | |$)", line[4:].split("   ")[0]) for line in block.splitlines()]
    rooms = [room for row in named for room in row]
    # The public names and the entry point are not in the list; the NumPy twin imports nothing.
    assert set(rooms) == set().union(*ROWS) - {"__init__", "__main__"} | {"reference"}
    assert all((ROOT / "minisbert" / room).exists() or (ROOT / f"minisbert/{room}.py").exists() for room in rooms)


def test_each_of_our_words_is_in_its_file():
    rows = table("docs/sentence_transformers.md", "there")
    assert len(rows) >= 20
    for theirs, ours, files in rows:
        sources = [(ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"`([^`]+)`", files)]
        words = re.findall(r"`(\w+)`", ours)
        assert theirs and sources
        assert [word for word in words if not any(re.search(rf"\b{word}\b", source) for source in sources)] in (
            [],
            ["static"],
        ), theirs


@pytest.mark.parity
def test_each_of_their_words_is_one_of_theirs():
    sentence_transformers = pytest.importorskip("sentence_transformers")
    there = [word for row in table("docs/sentence_transformers.md", "there") for word in re.findall(r"[\w.]+", row[0])]
    util, losses = (
        sentence_transformers.util,
        importlib.import_module("sentence_transformers.sentence_transformer.losses"),
    )
    evaluators = importlib.import_module("sentence_transformers.sentence_transformer.evaluation")
    for word in there:
        if word.startswith("util."):
            assert hasattr(util, word.removeprefix("util.")), word
        elif word.endswith("Loss"):
            assert hasattr(losses, word), word
        elif word.endswith("Evaluator"):
            assert hasattr(evaluators, word), word
        elif re.match(r"(SentenceT|CrossE)\w+$", word):
            assert hasattr(sentence_transformers, word), word


def test_the_picture_is_small_and_has_a_white_background():
    import PIL.Image

    alt = re.search(r"!\[([^\]]+)\]\(notebooks/pictures/one_story.png\)", prose("README.md"))[1]
    from minisbert.commands.demo import PUBLISHED

    cosines = sorted(PUBLISHED["all-mpnet-base-v2"].values())
    assert f"{cosines[-1]:.4f}" in alt and f"{cosines[-2]:.2f}" in alt
    assert PICTURE.stat().st_size < 120_000
    with PIL.Image.open(PICTURE) as picture:
        assert picture.width >= 1000 and "transparency" not in picture.info
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.real
def test_the_picture_can_be_drawn_again(monkeypatch):
    pytest.importorskip("IPython", reason='pip install -e ".[notebooks]" brings what figures need')
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    from figures import png
    from one_story import MODEL, draw

    try:
        encoder = SentenceEncoder(locate(MODEL, offline=True))
    except MinisbertError:
        pytest.skip(f"minisbert download {MODEL}")
    drawn = png(draw(encoder), dpi=100)
    assert abs(len(drawn) / PICTURE.stat().st_size - 1) < 0.2


# --- the Python blocks -----------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_first_python_block_prints_what_is_shown(capsys):
    try:
        locate(ENCODER, offline=True)
    except MinisbertError:
        pytest.skip("all-MiniLM-L6-v2 is not in the cache; `minisbert download all-MiniLM-L6-v2` fetches it")
    first = next(block for block in blocks("README.md") if block.language == "python")
    assert first.prints
    exec(first.code, {})
    assert capsys.readouterr().out.split() == first.prints.split()


@pytest.mark.parametrize("document", ("README.md", *PAGES))
@pytest.mark.usefixtures("tables_as_before")
def test_all_python_blocks_run_one_after_the_other(document, tmp_path, monkeypatch, capsys):
    """As a reader would type them into one session, with tiny models for the named ones and small files."""
    python = [block for block in blocks(document) if block.language == "python"]
    if not python:
        pytest.skip("no Python on this page")
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, pairs=150)
    CrossEncoder.from_encoder(TINY).save(tmp_path / "reranker")
    # A table of vectors compiles in a second.
    tiny = {RERANKER: str(tmp_path / "reranker"), ENCODER: str(TINY.with_name("tiny-static")), LAYERS: str(TINY)}
    session: dict[str, object] = {}
    for command in SESSION_NEEDS.get(document, ()):
        assert main([word.replace(ENCODER, tiny[ENCODER]) for word in command.split()]) == 0
    capsys.readouterr()
    for block in python:
        source = re.sub("|".join(map(re.escape, tiny)), lambda name: tiny[name[0]], block.code)
        exec(source, session)
        assert bool(capsys.readouterr().out.strip()) == (block.prints is not None), block.code
    if document == "README.md":
        assert [set(hit) for hit in session["ranked"]] == [{"corpus_id", "score"}] * 3
        scores = [hit["score"] for hit in session["ranked"]]
        assert scores == sorted(scores, reverse=True)
        assert (Path("runs/pairs") / "final" / "modules.json").exists()


# --- a family ---------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_family_exist_in_the_files_named():
    from minisbert.checkpoint.families import bert as stored
    from minisbert.encoders import FAMILIES, bert

    section = read("CONTRIBUTING.md").partition("## Add a family")[2].partition("\n## ")[0]
    parts = set(re.findall(r"`([A-Z][\w.]+)`", section.partition("\n2. ")[0]))
    assert {"Config", "Encoder", "RULES", "PASSTHROUGH", "PREFIX", "HEADS"} <= parts
    names = {*dir(bert), *dir(stored)}
    assert {part.split(".")[0] for part in parts - {"HEADS", "LETTERS"}} <= names
    rule, row, *_ = code("CONTRIBUTING.md", "python")
    assert rule.strip() in (ROOT / "minisbert/checkpoint/families/distilbert.py").read_text(encoding="utf-8")
    assert row.strip() in (ROOT / "minisbert/checkpoint/families/__init__.py").read_text(encoding="utf-8")
    assert "distilbert" in FAMILIES
    for file, name, _ in table("CONTRIBUTING.md", "file"):
        source = (ROOT / file.strip("`")).read_text(encoding="utf-8")
        assert re.search(rf"^{name.strip('`')}\b.* = ", source, re.MULTILINE), f"{file} has no table {name}"
