"""The API reference: a page a module, made from the docstrings by pdoc.

    python tests/pages/build_api.py api          then open api/index.html

Nothing is fetched, then or when reading, but MathJax for formulas.
"""

import argparse
import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import minisbert


def modules() -> list[str]:
    """The package and every module below it that a user may import."""
    found = [module.name for module in pkgutil.walk_packages(minisbert.__path__, "minisbert.")]
    return ["minisbert", *(name for name in found if not name.rpartition(".")[2].startswith("_"))]


def build(folder: Path) -> list[str]:
    """Write the pages; returns what pdoc warned of, which should be nothing."""
    for name in minisbert.__all__:  # fetched when asked for; pdoc reads only what is there
        setattr(minisbert, name, getattr(minisbert, name))
    below = modules()
    for name in below:
        importlib.import_module(name)
    pdoc.render.configure(docformat="google", math=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # A package brings its own modules; the first has __all__, so what is below it is named.
        pdoc.pdoc("minisbert", *(name for name in below if name.count(".") == 1), output_directory=folder)
    return [str(warning.message) for warning in warned]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Example: python tests/pages/build_api.py api"
    )
    parser.add_argument("folder", type=Path, help="where the pages go")
    folder = parser.parse_args().folder
    warned = build(folder)
    print(f"{folder / 'index.html'}: {len(modules())} modules")
    for line in warned:
        print(line, file=sys.stderr)
    return 1 if warned else 0


if __name__ == "__main__":
    sys.exit(main())
