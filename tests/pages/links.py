"""Links of Markdown files and of HTML pages: where each leads, and whether that exists.

Addresses on the web are checked for their form only; tests open no socket.
"""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin


class _Page(HTMLParser):
    """The links of a page and the names that links may point to."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.pictures_without_words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.names |= {value for key in ("id", "name") if (value := attributes.get(key))}
        self.links += [value for key in ("href", "src") if (value := attributes.get(key))]
        if tag == "img" and not attributes.get("alt"):
            self.pictures_without_words.append(attributes.get("src") or "")


def markdown_page(text: str) -> _Page:
    """Markdown as a page, with the names that its headings get on code hosts."""
    return _Page(MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6).render(text))


@cache
def read(file: Path) -> _Page:
    text = file.read_text(encoding="utf-8")
    return markdown_page(text) if file.suffix == ".md" else _Page(text)


def complaints(file: Path) -> list[str]:
    """What is wrong with the links of a file."""
    page = read(file.resolve())
    wrong = [f"{file.name}: the picture {source!r} has no alt text" for source in page.pictures_without_words]
    for link in dict.fromkeys(page.links):
        parts = urlsplit(link)
        if parts.scheme in ("data", "mailto"):
            continue
        if parts.scheme or parts.netloc:
            if not re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link):
                wrong.append(f"{file.name}: {link!r} is not an https address")
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file.resolve()
        if not target.exists():
            wrong.append(f"{file.name}: {link!r} leads nowhere")
        elif parts.fragment and target.suffix in (".md", ".html") and unquote(parts.fragment) not in read(target).names:
            wrong.append(f"{file.name}: {link!r}: no such heading or name there")
    return wrong
