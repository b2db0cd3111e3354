"""Build the documentation site and check every link of it.

    python tests/pages/check_site.py site        then open site/index.html

A warning of the build, a link to a missing page or heading, and anything that a page would fetch from the network fail.
"""

import argparse
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from links import complaints

ROOT = Path(__file__).parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}  # tag -> attribute


class _Fetched(HTMLParser):
    """What a page loads from another host."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        loads = attributes.get(FETCHED.get(tag, "")) or ""
        if tag == "link" and attributes.get("rel") in ("stylesheet", "preconnect", "preload", "icon"):
            loads = attributes.get("href") or ""
        if loads.startswith(("http:", "https:", "//")):
            self.found.append(loads)


def build(folder: Path) -> str:
    """Build the site; returns what mkdocs complains about, which must be nothing."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--clean",
        "--site-dir",
        str(folder.resolve()),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return done.stdout + done.stderr if done.returncode or "WARNING" in done.stderr else ""


def check(folder: Path) -> list[str]:
    """What is wrong with the pages of a built site."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        if page.name == "404.html":  # its links start at the root of a server
            continue
        found += complaints(page)
        found += [f"{page.name}: fetches {link}" for link in _Fetched(page.read_text(encoding="utf-8")).found]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Example: python tests/pages/check_site.py site"
    )
    parser.add_argument("folder", type=Path, help="where the pages go")
    folder = parser.parse_args().folder
    wrong = build(folder)
    if not wrong:
        wrong = "\n".join(check(folder))
    print(wrong or f"{folder / 'index.html'}: {len(list(folder.rglob('*.html')))} pages")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
