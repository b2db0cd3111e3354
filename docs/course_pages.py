"""The course as pages of the site, made when the site is built: each committed notebook with its outputs, and the scripts.

A notebook page has the cells of `notebooks/NN_title.ipynb` in their order: text as it is, code, what the code printed, and
its figures with their alt text. Nothing is run. mkdocs calls the functions named `on_...` (`hooks` in mkdocs.yml).
"""

import base64
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WIDE = "---\nhide: [toc]\n---\n"  # room for lines of code
SCRIPTS = ("sbert_in_one_file.py", "published.py", "table_1.py")  # those that the course's first page links to


def markdown_links(text: str) -> str:
    """Links among the files of notebooks/ as links among the pages here."""
    text = re.sub(r"\]\((\w+)\.(?:ipynb|py)((?:#[^)]*)?)\)", r"](\1.md\2)", text)
    return text.replace("](../docs/", "](../")


def heading_links(text: str) -> str:
    """In the table of the article's figures, the last column as a link to that heading of the row's first notebook."""
    row = re.compile(r"^(\|.*?\]\((\d\d_\w+)\.ipynb\).*\| )(.+)( \|)$", re.MULTILINE)
    before, start, table = text.partition("| the article shows or says |")
    table, end, after = table.partition("\n\n")
    table = row.sub(lambda cell: f"{cell[1]}[{cell[3]}]({cell[2]}.ipynb#{slugify(cell[3], '-')}){cell[4]}", table)
    return before + start + table + end + after


def fence(text: str, language: str) -> str:
    """A block of code, in a fence that the code does not contain."""
    marks = "`" * (1 + max((len(run) for run in re.findall("`{3,}", text)), default=2))
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(markdown_links(source.replace("<details>", '<details markdown="1">')))
            continue
        parts.append(fence(source, "python"))
        for kind, content, alt in outputs(cell["outputs"]):
            if kind == "image/png":
                name = f"{notebook.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(content)
                parts.append(f"![{alt}]({name}){{ .figure }}")
            else:
                parts.append(content if kind == "text/markdown" else fence(content, "{ .text .no-copy .printed }"))
    title, text = parts[0].split("\n", 1)
    run = f"*To run and change it: `jupyter lab notebooks/{notebook.name}` ([how to install](README.md)).*"
    return "\n\n".join([WIDE + title, run, text, *parts[1:]]) + "\n", pictures


def outputs(entries: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """What a cell showed: the kind, the content, and the alt text of a picture. Lines printed in a row are one text."""
    for printed, group in groupby(entries, key=lambda entry: entry["output_type"] == "stream"):
        if printed:
            yield "text/plain", "".join("".join(entry["text"]) for entry in group), ""
            continue
        for entry in group:
            kind = next(kind for kind in ("image/png", "text/markdown", "text/plain") if kind in entry["data"])
            alt = entry.get("metadata", {}).get(kind, {}).get("alt", "")
            yield kind, "".join(entry["data"][kind]), alt


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and their pictures under course/."""
    index = markdown_links(heading_links((NOTEBOOKS / "README.md").read_text(encoding="utf-8")))
    files.append(File.generated(config, "course/README.md", content=WIDE + index))
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, pictures = page(notebook)
        files.append(File.generated(config, f"course/{notebook.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"course/{name}", content=content))
    for name in SCRIPTS:
        code = fence((NOTEBOOKS / name).read_text(encoding="utf-8"), "python")
        stem = Path(name).stem
        files.append(File.generated(config, f"course/{stem}.md", content=f"{WIDE}# notebooks/{name}\n\n{code}\n"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links of the other documents to the course."""
    return re.sub(
        r"\]\((?:\.\./)+notebooks/(\w+)\.(?:md|ipynb|py)((?:#[^)]*)?)\)",
        lambda found: f"](course/{found[1]}.md{found[2]})",
        markdown,
    )
