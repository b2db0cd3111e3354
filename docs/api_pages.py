"""Pages that are made when the site is built: the API reference, and the documents of the repository's top folder.

The API reference has one page per folder of the package, with every public module and its docstrings; a new module is
never left out. mkdocs calls the functions named `on_...` (`hooks` in mkdocs.yml).
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minisbert"
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
# In the order of the story: the core first, then what uses it.
ORDER = (
    "minisbert",
    *("transformer", "encoders", "text", "training", "cross_encoder", "inference", "data", "evaluation", "search"),
    *("mining", "corpus", "explain", "export", "checkpoint", "download", "commands", "reference"),
)


def modules(folder: str) -> list[str]:
    """The public modules of one folder of the package, itself included; of the package itself those next to it."""
    parent = PACKAGE if folder == "minisbert" else PACKAGE / folder
    prefix = "minisbert" if folder == "minisbert" else f"minisbert.{folder}"
    names = sorted(file.stem for file in parent.glob("*.py") if not file.stem.startswith("_"))
    return [prefix, *(f"{prefix}.{name}" for name in names)]


def purpose(folder: str) -> str:
    """The first line of the folder's docstring."""
    file = PACKAGE / ("" if folder == "minisbert" else folder) / "__init__.py"
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def page(folder: str) -> str:
    """One page: a heading, then every module by mkdocstrings."""
    # The folder's own docstring opens the page; the lazy names of the package are documented where they are defined.
    opening = "    options: { members: false, show_root_heading: false, show_root_toc_entry: false }\n"
    top, *below = modules(folder)
    return f"# {top}\n\n::: {top}\n{opening}\n" + "\n".join(f"::: {name}\n" for name in below)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = [*ORDER, *sorted(found - set(ORDER))]
    rows = [f"| [`{folder}`]({folder}.md) | {purpose(folder)} |" for folder in folders]
    index = "# API reference\n\n| folder | content |\n| --- | --- |\n" + "\n".join(rows) + "\n"
    files.append(File.generated(config, "api/index.md", content=index))
    for folder in folders:
        files.append(File.generated(config, f"api/{folder}.md", content=page(folder)))
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the top folder's documents lead to their pages here."""
    return re.sub(rf"\]\(((?:\.\./)+)({'|'.join(DOCUMENTS)})\)", lambda m: f"]({m[1][3:]}{m[2].lower()})", markdown)
