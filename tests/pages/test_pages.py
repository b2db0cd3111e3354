"""No link of a document leads to a missing file or heading, and the site builds without a warning."""

from pathlib import Path

import check_site
import pytest
from links import complaints

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "notebooks").glob("*.md"),
    ROOT / "weights/README.md",
]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file):
    assert complaints(file) == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason='pip install -e ".[docs]" installs what builds the site')
    assert check_site.build(tmp_path) == ""
    pages = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    assert {"index.html", "api/transformer.html", "api/training.html", "guides/train.html"} <= pages
    assert check_site.check(tmp_path) == []
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        saved = notebook.read_text(encoding="utf-8")
        page = (tmp_path / "course" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert page.count('class="figure"') == saved.count('"image/png": "')
        assert page.count("<details") == saved.count("<details>") > 0
        assert "```" not in page


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("[a](nowhere.md)", "leads nowhere"),
        ("[a](#no-such)", "no such heading"),
        ("[a](other.md#gone)", "no such heading"),
        ("[a](http://example.org/)", "not an https address"),
        ("![](other.md)", "no alt text"),
        ("# A `b` c!\n[a](#a-b-c) [b](other.md#here) [c](https://example.org/x)", None),
    ],
)
def test_a_wrong_link_is_named(text, wrong, tmp_path):
    (tmp_path / "other.md").write_text("## Here\n", encoding="utf-8")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    found = complaints(tmp_path / "page.md")
    assert (found == []) if wrong is None else (len(found) == 1 and wrong in found[0])


def test_a_page_that_fetches_is_named(tmp_path):
    (tmp_path / "page.html").write_text('<script src="https://example.org/x.js"></script>', encoding="utf-8")
    assert check_site.check(tmp_path) == ["page.html: fetches https://example.org/x.js"]
