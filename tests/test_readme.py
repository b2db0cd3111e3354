"""What the README promises runs: CI calls its two lines word for word, its Python block gives what is printed below it."""

import re
from pathlib import Path

import pytest

from minisbert.checkpoint.download import locate
from minisbert.errors import MinisbertError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_ci_runs_the_two_lines_word_for_word():
    install_and_demo, install_and_test = (block.strip() for block in blocks("bash")[:2])
    assert "&& minisbert demo" in install_and_demo
    assert "&& python -m pytest" in install_and_test
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert install_and_demo in ci
    assert install_and_test in ci


def test_every_file_the_readme_names_is_there():
    named = set(re.findall(r"`((?:minisbert|weights|tests)/[\w./-]+)`", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_command_the_readme_shows_is_one():
    from minisbert.commands import COMMANDS

    shown = re.findall(r"^minisbert (\w+)", "\n".join(blocks("bash")), re.MULTILINE)
    assert shown
    assert set(shown) <= set(COMMANDS)


@pytest.mark.real
def test_the_python_block_prints_what_is_shown(capsys):
    try:
        locate("all-MiniLM-L6-v2", offline=True)
    except MinisbertError:
        pytest.skip("all-MiniLM-L6-v2 is not in the cache; `minisbert download all-MiniLM-L6-v2` fetches it")
    exec(blocks("python")[0], {})
    assert capsys.readouterr().out.split() == blocks("text")[0].split()
