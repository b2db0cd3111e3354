"""Parsing of the documents that people follow: code blocks with what they print, commands, and small files to run them on."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Every page with commands or code to follow.
PAGES = tuple(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "notebooks/README.md", *PAGES)
COURSE = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py")))
TINY = ROOT / "weights" / "tiny-bert"
BLOCK = re.compile(r"^( *)```([\w-]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block. `prints` is the text block right after it, which is what it must print."""

    language: str
    code: str
    line: int
    prints: str | None


def read(document: str) -> str:
    """A document's text; of a notebook the cells of text."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if not document.endswith(".py"):
        return text
    cells = [cell.partition("\n")[2] for cell in text.split("# %% [markdown]")[1:]]
    return "\n\n".join(re.sub(r"^# ?", "", cell.partition("\n# %%")[0], flags=re.MULTILINE) for cell in cells)


def blocks(document: str) -> list[Block]:
    text = read(document)
    assert text.count("```") == 2 * len(list(BLOCK.finditer(text))), "a fence that this does not understand"
    found: list[Block] = []
    end = 0
    for match in BLOCK.finditer(text):
        language, code = match[2], textwrap.dedent(match[3])
        if language == "text":
            assert not text[end : match.start()].strip(), f"{document}: nothing prints {code!r}"
            found[-1] = found[-1]._replace(prints=code)
        else:
            found.append(Block(language, code, text.count("\n", 0, match.start()) + 1, None))
        end = match.end()
    return found


def prose(document: str) -> str:
    """The text without its fenced blocks."""
    return BLOCK.sub("", read(document))


def spans(document: str) -> list[str]:
    """Everything `between backticks` outside the fenced blocks, in order."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(document))]


def table(document: str, first: str) -> list[list[str]]:
    """The rows of the table whose header begins with this cell."""
    _, _, rest = read(document).partition(f"| {first} |")
    assert rest, f"{document} has no table that begins with {first!r}"
    rows = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))] for row in rows]


def commands(document: str) -> list[str]:
    """Every command of the document, from blocks, tables and sentences."""
    code = "".join(block.code for block in blocks(document) if block.language == "bash")
    lines = re.sub(r"&&\n +", "&& ", code).splitlines()  # a quoted command may take two lines
    lines = [part.strip() for line in lines for part in (line.split("&&") if "'" not in line else [line])]
    inline = [span for span in spans(document) if re.match(r"(minisbert|python|pip|pytest|mkdocs|pre-commit) \S", span)]
    named = re.compile(r"minisbert [\w-]+")  # the name of a command, not a call of it
    return [command for command in dict.fromkeys([*lines, *inline]) if command in lines or not named.fullmatch(command)]


def ladder() -> list[str]:
    """The laptop's command of the guide to devices, and the same with the flags of every other row."""
    (_, laptop), *rungs = table("docs/guides/devices.md", "where")
    first = laptop.strip("`")
    # A batch of a later rung has more rows than the sample; its reader has a larger file.
    own = first.replace("docs/samples/", "")
    return [first, *(f"{own} {flags}" for _, rung in rungs for flags in re.findall(r"`(--[^`]+)`", rung))]


@cache
def flags_of(command: str) -> set[str]:
    """The flags that `minisbert COMMAND --help` shows."""
    environment = {**os.environ, "COLUMNS": "300"}
    words = [sys.executable, "-m", "minisbert", command, "--help"]
    shown = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][\w-]*", shown))


def write_data(folder: Path, pairs: int = 1250) -> None:
    """The files that the documents name: the samples, and a reader's own, larger ones.

    Args:
        pairs: of the reader's own; by default more than the largest batch of the guide to devices.
    """
    shutil.copytree(ROOT / "docs" / "samples", folder / "docs" / "samples")
    scored = (ROOT / "docs" / "samples" / "sts.tsv").read_text(encoding="utf-8")
    (folder / "stsb_dev.tsv").write_text(scored, encoding="utf-8")
    header, *rows = (ROOT / "docs" / "samples" / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    many = [rows[i % len(rows)].replace("\t", f" {i}\t") + f" {i}" for i in range(pairs)]
    (folder / "pairs.tsv").write_text("\n".join([header, *many]) + "\n", encoding="utf-8")
