"""The notebooks as they are committed, without running them; and what runs them, on notebooks made for it."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_notebooks import (
    MACHINE_PATH,
    NOTEBOOKS,
    ROOT,
    disagreements,
    execute,
    output_complaints,
    read_script,
    scripts,
    solutions,
)

SCRIPTS = scripts([])
LARGEST = 300_000  # bytes of one .ipynb
README = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")

each_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def cells(script: Path) -> list[dict]:
    return json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]


def test_there_is_something_to_read():
    assert [path.name[:2] for path in SCRIPTS] == [f"{n:02}" for n in range(len(SCRIPTS))]
    assert len(SCRIPTS) >= 6


def test_no_notebook_stands_alone():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in SCRIPTS}


@each_notebook
def test_py_and_ipynb_hold_the_same_cells(script):
    pytest.importorskip("jupytext")
    assert disagreements(script) == []


@each_notebook
def test_outputs_are_whole_and_clean(script):
    code = [cell for cell in cells(script) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, from top to bottom
    assert [told for cell in code for told in output_complaints(cell["outputs"])] == []


@each_notebook
def test_the_notebook_is_small(script):
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST


@each_notebook
def test_it_asserts_and_ends_with_exercises_and_a_file_to_read(script):
    assert re.search(r"^ *assert ", script.read_text(encoding="utf-8"), re.MULTILINE)
    text = "\n".join("".join(cell["source"]) for cell in cells(script) if cell["cell_type"] == "markdown")
    _, heading, end = text.partition("## Exercises")
    assert heading
    assert end.count("<details>") == end.count("</details>") >= 1
    (row,) = [line for line in README.splitlines() if re.match(rf"\| \[{script.stem[:2]} ", line)]
    read = row.split("|")[-2].strip()
    assert read in end.rsplit("</details>", 1)[1], f"the end does not point to {read}, as the README says"


@each_notebook
def test_every_file_and_notebook_it_names_is_there(script):
    text = script.read_text(encoding="utf-8")
    named = re.findall(r"`((?:minisbert|weights|tests)/[\w./-]+)`", text)
    linked = re.findall(r"\]\((\w+\.ipynb)\)", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert [name for name in linked if not (NOTEBOOKS / name).exists()] == []


def test_the_rows_of_the_readme_are_the_notebooks():
    rows = re.findall(r"^\| \[(\d\d) ([^\]]+)\]\((\w+)\.ipynb\) \|", README, re.MULTILINE)
    assert [stem for _, _, stem in rows] == [path.stem for path in SCRIPTS]
    for (number, title, stem), path in zip(rows, SCRIPTS, strict=True):
        assert stem.startswith(number)
        assert "".join(cells(path)[0]["source"]).splitlines()[0] == f"# {number} {title}"


def test_every_figure_of_the_article_has_its_place():
    _, _, rest = README.partition("| the article shows or says |")
    rows = [line for line in rest.split("\n\n")[0].splitlines() if "](" in line]
    assert len(rows) >= 19
    for row in rows:
        *_, where, heading = re.split(r"(?<!\\)\|", row.strip("|"))
        texts = [
            (NOTEBOOKS / f"{stem}.py").read_text(encoding="utf-8") for stem in re.findall(r"\((\w+)\.ipynb\)", where)
        ]
        assert texts, row
        assert any(re.search(rf"^# ##+ {re.escape(heading.strip())}$", text, re.MULTILINE) for text in texts), heading


@each_notebook
def test_every_figure_can_be_shown_small_and_read_aloud(script):
    """Alt text that says more than a name, the same text below the picture, and no picture that fills the page's budget."""
    for cell in cells(script):
        outputs = cell.get("outputs", [])
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        below = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
        for picture in pictures:
            alt = picture["metadata"]["image/png"]["alt"]
            assert len(alt.split()) >= 10
            assert f"*Figure: {alt}*" in below
            data = base64.b64decode(picture["data"]["image/png"])
            assert len(data) < 120_000
            width = int.from_bytes(data[16:20])
            assert 500 <= width <= 1000, "wider than a page, or too small to read"


@each_notebook
def test_it_can_be_read_without_a_network(script):
    """Formulas between dollars are drawn by a program of the web's; links lead into this repository or to papers."""
    for cell in cells(script):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert "$" not in re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL), text
            assert not re.search(r"!\[|<img|<script|<iframe", text)


# --- what run_notebooks.py must not let pass -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output, told",
    [
        ({"output_type": "error", "ename": "E", "evalue": "x", "traceback": ["\x1b[31mE\x1b[0m: x"]}, "E: x\nE: x"),
        ({"output_type": "stream", "name": "stderr", "text": ["UserWarning: x"]}, "on stderr: UserWarning: x"),
        ({"output_type": "stream", "name": "stdout", "text": ["read /home/somebody/x"]}, "a path of this machine"),
        ({"output_type": "execute_result", "data": {"text/plain": ["'C:\\Users'"]}}, "a path of this machine"),
        ({"output_type": "display_data", "data": {"image/png": "x"}, "metadata": {}}, "a figure without alt text"),
    ],
)
def test_a_bad_output_is_named(output, told):
    (found,) = output_complaints([output])
    assert found.startswith(told)


def test_a_good_output_is_not():
    figure = {"output_type": "display_data", "data": {"image/png": "x"}, "metadata": {"image/png": {"alt": "a line"}}}
    assert list(output_complaints([figure, {"output_type": "stream", "name": "stdout", "text": "fine"}])) == []
    assert not MACHINE_PATH.search("../weights/tiny-bert and minisbert/home/x and 3 /tmp")


def made(folder: Path, *cells: str) -> Path:
    script = folder / "01_made.py"
    script.write_text("\n\n".join(f"# %%{cell}" for cell in cells) + "\n", encoding="utf-8")
    return script


def test_a_pair_that_does_not_agree_is_named(tmp_path):
    jupytext = pytest.importorskip("jupytext")
    script = made(tmp_path, " [markdown]\n# # A title", "\nx = 1", "\nprint(x)")
    assert "is missing" in disagreements(script)[0]
    jupytext.write(read_script(script), script.with_suffix(".ipynb"))
    assert disagreements(script) == []
    made(tmp_path, " [markdown]\n# # A title", "\nx = 2", "\nprint(x)", "\nx")
    assert [told.split(" of ")[0] for told in disagreements(script)] == [
        "cell 1",
        "01_made.py has 4 cells, 01_made.ipynb 3",
    ]


HIDDEN = """ [markdown]
# <details><summary>Solution</summary>
#
# ```python
# assert x == 1, 'solved wrongly'
# ```
# </details>"""


def test_each_failure_of_a_run_is_named(tmp_path):
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason='pip install -e ".[notebooks]" brings what runs notebooks')
    good = read_script(made(tmp_path, "\nx = 1\nprint(x)", HIDDEN))
    assert list(solutions(good)) == ["assert x == 1, 'solved wrongly'\n"]
    assert execute(good, tmp_path, 60) == []
    assert [cell.cell_type for cell in good.cells] == ["code", "markdown"]
    assert good.cells[0].outputs[0].text == "1\n"

    warned = execute(read_script(made(tmp_path, "\nimport warnings\nx = 1\nwarnings.warn('mind this')")), tmp_path, 60)
    assert len(warned) == 1
    assert warned[0].startswith("cell 0: on stderr: ")
    (wrong,) = execute(read_script(made(tmp_path, "\nx = 2", HIDDEN)), tmp_path, 60)
    assert wrong.startswith("solution 1: AssertionError: solved wrongly")
    slow, *_ = execute(read_script(made(tmp_path, "\nimport time\ntime.sleep(60)")), tmp_path, 1)
    assert slow.startswith("CellTimeoutError within 1 s")


def test_an_unknown_number_is_refused():
    done = subprocess.run(
        [sys.executable, "tests/notebooks/run_notebooks.py", "77"],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no notebook 77. Expected of 00" in done.stderr
