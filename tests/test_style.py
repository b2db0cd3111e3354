"""Words and phrases that this project does not use, and what to write instead: each complaint names file:line.

The list is for readers who come from the papers and from sentence-transformers: plain English and the field's terms,
in names, docstrings, comments, messages and documents alike.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIS = Path(__file__).resolve()

_COUNTED = (
    "texts|tokens|examples|rows|vectors|sentences|pairs|words|bytes|bits|numbers|seconds|ms|us|MB|GB|files|lines|heads|"
    "queries|dimensions|cores|processes|threads|steps|calls|labels|candidates|errors|negatives"
)
_UNIT = (
    "text|token|example|row|sentence|pair|batch|chunk|block|step|call|device|host|worker|thread|process|query|document|"
    "label|module|file|page|kind|layer|head|run|second|core|vector|word|test|command|column|group|cluster"
)
# a regular expression -> what to write instead
BANNED = {
    # one thing per another
    rf"\b(?:{_COUNTED}) an? (?:{_UNIT})\b(?! of)": "per: `texts per example`",
    rf"\bone \w+ an? (?:{_UNIT})\b(?! (?:of|that|is|may|can))": "per: `one vector per text`",
    # words with another meaning, or none, in English
    r"\bmeaned\b": "averaged",
    r"\b(?:is|are|was|were|be|been|being|as|not) told\b(?! apart)": "given, set, named",
    r"(?<!here )\b(?:is|are|was|were) no (?!(?:longer|more|less|fewer|such|one|other|\w+er)\b)": "is not a ..., are not ...",
    r"(?<!here )\b(?:is|are) none\b(?! openvino)": "is invalid, or `there is none`",
    r"\b(?:stand|stands|stood|standing) (?:in|at|on|below|above|beside|there|here|before|after|behind|inside|under|next|"
    r"together|outside|between|alone|to|by|as|nowhere)\b": "is, are",
    r"\bwhere \w+ stands?\b": "where ... is",
    r"(?<!across )\bbeside\b": "next to, with, alongside",
    r"\bdear(?:er|est)?\b": "expensive",
    r"\b(?:goes|go|going|gone|went) on\b(?! (?:the|a|an|to)\b)": "resumes, continues",
    r"\bdoors?\b": "an input, an entry point",
    r"\bwell answered\b": "handled",
    r"\b(?:is|are|was|were|be) held\b(?! (?:out|in)\b|$)": "passes; is checked by",
    r"\bheld to\b": "checked against",
    r"\b[Tt]he peer(?:'s)?\b|\b[Tt]he peer library\b": "sentence-transformers, or the library meant",
    r"\bfilling\b": "padding",
    r"\bnumber of numbers\b": "size",
    r"(?<!borrow )\bat once\b": "immediately, or per batch: say which",
    r"\bof one device nothing\b": "a no-op on one device",
    r"\bledger\b": "log, counts",
    r"\btowers?\b": "route",
    r"\bsaid aloud\b": "logged, reported",
    # sentences that were rewritten
    r"\bby the command beside\b": "Each row names the command that checks it.",
    r"\bor a right result\b": "or returns the correct result",
    r"\bkilled and started again\b": "resumable: rerun it and only what is missing is computed",
    r"\btext in, one vector\b": "Maps each text to one vector.",
    r"\bone number to make small\b": "a scalar to minimize",
    r"\bwho holds what\b": "which device holds which array",
    r"\bno sum\b": "a nonlinear activation breaks the decomposition",
    # names that were replaced by the field's terms
    r"\bPairDesign\b|\bway_of\b|\bJOINT\b|\bslots_PL\b|\blooks_PQK\b|\bwhere_SB\b|\bby_example\b|\bkept_budget\b|"
    r"\bkeep_compiled\b|\bbest_rows\b|\bblock_maxima\b|\bfirst_unfit\b|\bSOON_DEFINED\b|\bwhole_folder\b": "the new name",
}
RULES = {re.compile(pattern): instead for pattern, instead in BANNED.items()}


def texts() -> list[Path]:
    """Everything that a person wrote and a person reads."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.cfg"), *ROOT.glob("*.yml"), *ROOT.glob(".ci/*")]
    for folder in ("minisbert", "tests", "docs", "notebooks", "weights", ".github"):
        found += [
            file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".ipynb", ".yml", ".css")
        ]
    return sorted(file for file in set(found) if file.is_file() and file.resolve() != THIS)


def lines_of(file: Path) -> list[str]:
    """The lines of a file; of a notebook those of its cells, without what they printed."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".ipynb":
        return text.splitlines()
    return [line for cell in json.loads(text)["cells"] for line in "".join(cell["source"]).splitlines()]


def complaints(lines: list[str]) -> list[tuple[int, str, str]]:
    """(line, what was found, what to write instead)."""
    return [
        (number, match[0], instead)
        for number, line in enumerate(lines, 1)
        for rule, instead in RULES.items()
        for match in rule.finditer(line)
    ]


def test_no_banned_phrase_is_used():
    found = [
        f"{file.relative_to(ROOT)}:{number}: {phrase!r}; write {instead}"
        for file in texts()
        for number, phrase, instead in complaints(lines_of(file))
    ]
    assert not found, f"{len(found)} phrases to rewrite\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line, phrase",
    [
        ("It returns one vector a text.", "one vector a text"),
        ("S texts an example", "texts an example"),
        ("The file is no index.", "is no "),
        ("The gradients are meaned.", "meaned"),
        ("the head stands beside it", "stands beside"),
        ("as fast as the peer's", "the peer's"),
    ],
)
def test_a_banned_phrase_is_found(line, phrase):
    assert phrase in [found for _, found, _ in complaints([line])]


@pytest.mark.parametrize(
    "line",
    ["There is no such file.", "The map goes on the left.", "held-out data", "a door-less x".replace("door", "floor")],
)
def test_plain_english_is_not(line):
    assert complaints([line]) == []


if __name__ == "__main__":  # python tests/test_style.py [PREFIX ...]: what is left, by place
    import sys

    for file in texts():
        name = str(file.relative_to(ROOT))
        if name.startswith(tuple(sys.argv[1:] or ("",))):
            for number, phrase, instead in complaints(lines_of(file)):
                print(f"{name}:{number}: {phrase!r}; write {instead}")
