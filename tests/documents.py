"""Parsing of the documents that people follow: code blocks with what they print, commands, and small files to run them on."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax

ROOT = Path(__file__).parents[1]
# Every page with commands or code to follow.
PAGES = tuple(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "notebooks/README.md", *PAGES)
TINY = ROOT / "weights" / "tiny-bert"
BLOCK = re.compile(r"^( *)```([\w-]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block. `prints` is the text block right after it, which is what it must print."""

    language: str
    code: str
    line: int
    prints: str | None


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


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
    lines = [line for block in blocks(document) if block.language == "bash" for line in block.code.splitlines()]
    lines = [part.strip() for line in lines for part in line.split("&&")]
    inline = [span for span in spans(document) if re.match(r"(minisbert|python|pip|pytest|mkdocs|pre-commit) \S", span)]
    named = re.compile(r"minisbert \w+")  # the name of a command, not a call of it
    return [command for command in dict.fromkeys([*lines, *inline]) if command in lines or not named.fullmatch(command)]


def ladder() -> list[str]:
    """The laptop's command of the guide to devices, and the same with the flags of every other row."""
    (_, laptop), *rungs = table("docs/guides/devices.md", "where")
    first = laptop.strip("`")
    return [first, *(f"{first} {flags}" for _, rung in rungs for flags in re.findall(r"`(--[^`]+)`", rung))]


@cache
def flags_of(command: str) -> set[str]:
    """The flags that `minisbert COMMAND --help` shows."""
    environment = {**os.environ, "COLUMNS": "300"}
    words = [sys.executable, "-m", "minisbert", command, "--help"]
    shown = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][\w-]*", shown))


@contextmanager
def unoptimized() -> Iterator[None]:
    """Compiling is nearly all that the documents' code does on tiny models."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
        jax.clear_caches()  # no other test gets these programs


def write_data(folder: Path, pairs: int = 1250) -> None:
    """The small files that the documents use; `pairs` is more than the largest batch of the guide to devices."""
    animals, does = "cat dog man woman child".split(), "eats sleeps sings runs reads".split()
    texts = [f"the {one} {what}" for one in animals for what in does]

    def tsv(name: str, columns: str, rows: list[tuple]) -> None:
        lines = ["\t".join(columns.split()), *("\t".join(map(str, row)) for row in rows)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    paired = [(f"the {one} {what}", f"a {one} that {what}") for one in animals for what in does]
    scored = [(i % 6, a, b) for i, (a, b) in enumerate(zip(texts, texts[3:], strict=False))]
    labels = ("entailment", "neutral", "contradiction")
    tsv("pairs.tsv", "anchor positive", [(f"{a} {i}", f"{b} {i}") for i in range(pairs // 25) for a, b in paired])
    tsv("stsb_dev.tsv", "score sentence1 sentence2", scored)
    tsv("scored.tsv", "score sentence1 sentence2", [(score / 5, a, b) for score, a, b in scored])
    tsv("nli.tsv", "label sentence1 sentence2", [(labels[score % 3], a, b) for score, a, b in scored])
    (folder / "sentences.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (folder / "cranfield").mkdir()
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts[:4])]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / "cranfield" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    qrels = [(f"q{i}", f"d{i}", 1) for i in range(4)]
    tsv("cranfield/qrels.tsv", "query-id corpus-id score", qrels)
