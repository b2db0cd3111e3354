"""What people read outside the code: the API reference builds from the docstrings, and no link leads nowhere."""

import subprocess
import sys
from pathlib import Path

import build_api
import pytest
from links import complaints

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_link_leads_nowhere(file):
    assert complaints(file) == []


def test_the_api_reference(tmp_path):
    """In a process of its own, since it imports every module."""
    command = [sys.executable, build_api.__file__, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"minisbert.html", "attention.html", "siamese.html"} <= {page.name for page in pages}
    assert [wrong for page in pages for wrong in complaints(page)] == []


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("[a](nowhere.md)", "leads nowhere"),
        ("[a](#no-such)", "no such heading"),
        ("[a](other.md#gone)", "no such heading"),
        ("[a](http://example.org/)", "no https address"),
        ("![](other.md)", "no words"),
        ("# A `b` c!\n[a](#a-b-c) [b](other.md#here) [c](https://example.org/x)", None),
    ],
)
def test_what_is_wrong_is_named(text, wrong, tmp_path):
    (tmp_path / "other.md").write_text("## Here\n", encoding="utf-8")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    found = complaints(tmp_path / "page.md")
    assert (found == []) if wrong is None else (len(found) == 1 and wrong in found[0])
