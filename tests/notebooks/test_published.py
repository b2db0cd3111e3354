"""Every figure quoted from a paper, in notebooks, docs, README and comments, is the one in notebooks/published.py."""

import re
import sys
from collections.abc import Iterator

import pytest
from documents import DOCUMENTS, ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
import sbert_in_one_file as one_file
from published import PUBLISHED

from minisbert.training.pair_losses import CONCATENATIONS

NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.py")) if path.name != "published.py"]
DOCUMENTED = [ROOT / document for document in (*DOCUMENTS, "CHANGELOG.md")]
FILES = [*DOCUMENTED, *NOTEBOOKS, *sorted((ROOT / "minisbert").rglob("*.py"))]
FIGURE = re.compile(r"(?<![\d.,])\d\d\.\d\d(?![\d%])")  # a Spearman correlation x 100
NAMED = re.compile(r"SBERT[’']s tables? (\d)(?: and (\d))?|SBERT table (\d)|PUBLISHED\[\"SBERT\", \"table (\d)\"\]")
FIGURES: dict[str, set[float]] = {}
for (_, place), rows in PUBLISHED.items():
    FIGURES.setdefault(place, set()).update(value for row in rows.values() for value in row.values())
TABLES = {place for _, place in PUBLISHED if place.startswith("table")}


def paragraphs(text: str) -> Iterator[str]:
    """Text between blank lines, or a row of a table, without the `#` of comments."""
    yield from re.split(r"\n(?:[ \t]*\n)+|\n(?=\|)", re.sub(r"^[ \t]*#[ \t]?", "", text, flags=re.MULTILINE))


def wrong(text: str) -> list[str]:
    """Figures that the tables named next to them do not have, and figures of a table without its name."""
    found = []
    all_figures = set().union(*(FIGURES[place] for place in TABLES))
    for paragraph in paragraphs(text):
        named = {f"table {number}" for groups in NAMED.findall(paragraph) for number in groups if number}
        named |= {"table of models"} & set(re.findall("table of models", " ".join(paragraph.split())))
        allowed = set().union(*(FIGURES[place] for place in named & TABLES))
        for figure in FIGURE.findall(paragraph):
            if named & TABLES and float(figure) not in allowed:
                found.append(f"{figure} is not in {sorted(named)}")
            if not named and float(figure) in all_figures:
                found.append(f"{figure} stands without its source: {paragraph.strip()[:80]!r}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_quoted_figure_is_the_published_one(file):
    assert wrong(file.read_text(encoding="utf-8")) == []


def test_the_times_of_the_paper_are_quoted_right():
    """65 hours and 5 seconds, wherever they are."""
    hours = PUBLISHED["SBERT", "section 1"]["cross-encoder"]["seconds on a V100"] / 3600
    quoted = [(file.name, n) for file in FILES for n in re.findall(r"(?<!\d)(\d+) hours", file.read_text("utf-8"))]
    assert len(quoted) >= 8
    assert [row for row in quoted if float(row[1]) != hours] == []


def test_the_article_s_row_is_quoted_whole():
    text = " ".join((ROOT / "notebooks" / "09_contrastive_training.py").read_text(encoding="utf-8").split())
    row = PUBLISHED["article", "table of models"]["all-mpnet-base-v2"]
    for quoted in (f"{row['performance']:.2f}", f"{row['speed']:,.0f} sentences per second", f"{row['MB']:.0f} MB"):
        assert quoted in text


def test_the_sizes_of_the_nli_corpora_are_quoted_right():
    sizes = [row["pairs"] for row in PUBLISHED["SBERT", "section 3.1"].values()]
    notebook = (ROOT / "notebooks" / "08_siamese_training.py").read_text(encoding="utf-8")
    course = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [size for size in sizes if f"{size:,.0f}" not in notebook or f"{size / 1000:.0f}K" not in course] == []


def test_the_table_agrees_with_itself():
    """A typing error in a row of table 1 would change its average; the others are tied to what the code uses."""
    for name, row in PUBLISHED["SBERT", "table 1"].items():
        scores = [value for column, value in row.items() if column != "Avg."]
        # The paper prints 74.89 for SBERT-NLI-base; the average of its seven figures is 74.86.
        printed = 74.86 if name == "SBERT-NLI-base" else row["Avg."]
        assert abs(sum(scores) / 7 - printed) < 0.0051, name
    for row in PUBLISHED["sentence-transformers", "table of models"].values():
        assert abs((row["sentences"] + row["search"]) / 2 - row["performance"]) < 0.0051
    assert set(CONCATENATIONS) == set(PUBLISHED["SBERT", "table 6"]) - {"MEAN", "MAX", "CLS"}
    assert PUBLISHED["SBERT", "section 1"]["pairs of 10,000 sentences"]["inferences"] == 10_000 * 9_999 / 2
    cosines = PUBLISHED["article", "cosines of all-mpnet-base-v2"]
    assert [row["cosine"] for row in cosines.values()] == one_file.PUBLISHED


@pytest.mark.parametrize(
    "text, named",
    [
        ("In SBERT's table 6 it is 87.45.", ["87.45 is not in ['table 6']"]),
        ("# In SBERT's table 1, [CLS] has 29.19\n# and the mean 54.18.", ["54.18 is not in ['table 1']"]),
        ("It reaches 61.32.", ["61.32 stands without its source: 'It reaches 61.32.'"]),
        ("The article's table of\n# models: 63.40.", ["63.40 is not in ['table of models']"]),
        ("In SBERT's tables 1 and 6: 61.32 and 66.04. Measured elsewhere.\n\n86.72 here", []),
    ],
)
def test_a_wrong_quotation_is_named(text, named):
    assert wrong(text) == named


def test_the_concatenations_have_their_own_figure():
    source = (ROOT / "minisbert/training/pair_losses.py").read_text(encoding="utf-8")
    quoted = dict(re.findall(r'^ {4}"([^"]+)",  # ([\d.]+)$', source, re.MULTILINE))
    table = PUBLISHED["SBERT", "table 6"]
    assert {name: float(value) for name, value in quoted.items()} == {n: table[n]["NLI"] for n in CONCATENATIONS}
