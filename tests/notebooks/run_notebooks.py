"""Run the notebooks, each in a fresh kernel, and fail on an error, a warning, or a pair that does not agree.

    python tests/notebooks/run_notebooks.py                  all of them
    python tests/notebooks/run_notebooks.py 03 07            some
    python tests/notebooks/run_notebooks.py --jobs 2         all, two at a time
    python tests/notebooks/run_notebooks.py 03 --write       make the .ipynb of 03 from its .py, outputs and all

`NN_title.py` is the truth; `NN_title.ipynb` next to it has the same cells and their outputs. Outputs are not compared,
since times and last digits differ between machines: what must not change, a notebook asserts. Solutions of exercises
(```python blocks inside <details>) run too, after the last cell. Needs `pip install -e ".[notebooks]"`.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from minisbert.download.locate import cache_folder

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
SECONDS = 600.0  # a notebook that hangs: the longest takes 70 to 180 on the processors met so far
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# What tells whose machine it was: absolute folders of users and systems.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|opt|var|Users|private|work)/|\b[A-Z]:\\|site-packages")
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of a traceback


def scripts(numbers: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """The .py of the notebooks asked for, all if none is.

    Raises:
        SystemExit: a number that no notebook has.
    """
    found = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.py"))}
    if unknown := [number for number in numbers if number not in found]:
        raise SystemExit(f"no notebook {', '.join(unknown)}. Expected of {', '.join(found) or 'none'}.")
    return [path for number, path in found.items() if not numbers or number in numbers]


def read_script(path: Path) -> Any:
    """The cells of a py:percent file as a notebook without outputs; the same file always gives the same notebook."""
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = {**KERNEL}
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02}"
        cell.metadata = {}
    return notebook


def disagreements(script: Path) -> list[str]:
    """Where the .ipynb next to a .py does not have the same cells."""
    pair = script.with_suffix(".ipynb")
    if not pair.is_file():
        return [f"{pair.name} is missing; python tests/notebooks/run_notebooks.py {script.name[:2]} --write makes it"]
    ours = [(cell.cell_type, cell.source) for cell in read_script(script).cells]
    # A cell's source is one string or a list of lines.
    cells = json.loads(pair.read_text(encoding="utf-8"))["cells"]
    theirs = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    told = [
        f"cell {place} of {pair.name} is not that of {script.name}"
        for place, (a, b) in enumerate(zip(ours, theirs, strict=False))
        if a != b
    ]
    if len(ours) != len(theirs):
        told.append(f"{script.name} has {len(ours)} cells, {pair.name} {len(theirs)}")
    return told


def solutions(notebook: Any) -> Iterator[str]:
    """The Python code of the hidden solutions."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for hidden in re.findall(r"<details>(.*?)</details>", cell.source, re.DOTALL):
                yield from re.findall(r"^```python\n(.*?)^```", hidden, re.DOTALL | re.MULTILINE)


def execute(notebook: Any, folder: Path, seconds: float) -> list[str]:
    """Run all cells, then the solutions, in a kernel of this interpreter; the outputs stay in `notebook`.

    Returns:
        complaints: an error, anything on stderr (warnings among it), or more time than allowed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": search, "MPLBACKEND": "Agg", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    # Each kernel compiles what the tests or another one compiled before: 13 % of the time of all notebooks.
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    cells = len(notebook.cells)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in solutions(notebook)]
    deadline = time.monotonic() + seconds
    told = []
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets in a folder of ours, where the system has such: ports would be open to everybody on the machine.
        private = {"transport": "ipc", "ip": os.path.join(sockets, "kernel")}
        client = NotebookClient(
            notebook,
            config=Config({} if os.name == "nt" else {"KernelManager": private}),
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            startup_timeout=max(60, int(seconds)),
            timeout_func=lambda cell: max(1.0, deadline - time.monotonic()),
        )
        try:
            client.execute(env=environment)
        except CellExecutionError:
            pass  # it is in the outputs
        except (CellTimeoutError, DeadKernelError) as error:
            told.append(f"{type(error).__name__} within {seconds:.0f} s: {str(error).strip().splitlines()[0]}")
    for place, cell in enumerate(notebook.cells):
        where = f"cell {place}" if place < cells else f"solution {place - cells + 1}"
        told += [f"{where}: {complaint}" for complaint in output_complaints(cell.get("outputs", []))]
    del notebook.cells[cells:]
    return told


def output_complaints(outputs: list[dict[str, Any]]) -> Iterator[str]:
    """What must not be in an output: errors, warnings, whose machine it was, a figure without alt text."""
    for output in outputs:
        if output["output_type"] == "error":
            traceback = ANSI.sub("", "\n".join(output["traceback"]))
            yield f"{output['ename']}: {output['evalue']:.300}\n{traceback:.3000}"
        if output.get("name") == "stderr":
            yield f"on stderr: {''.join(output['text']).strip():.300}"
            continue
        texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
        for text in texts:
            if found := MACHINE_PATH.search("".join(text)):
                yield f"a path of this machine: {''.join(text)[found.start() : found.start() + 80]!r}"
        if "image/png" in output.get("data", {}) and not output.get("metadata", {}).get("image/png", {}).get("alt"):
            yield "a figure without alt text; show it with figures.show"


def run(script: Path, write: bool, seconds: float) -> tuple[list[str], str]:
    """Run one notebook: its complaints, and a line about its time."""
    import nbformat

    complaints = [] if write else disagreements(script)
    notebook = read_script(script)
    started, before = time.monotonic(), os.times()
    complaints = complaints or execute(notebook, script.parent, seconds)
    wall, after = time.monotonic() - started, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    if write and not complaints:
        script.with_suffix(".ipynb").write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return complaints, f"{script.stem:32} {wall:6.1f} s, {busy:6.1f} s of a core  {'failed' if complaints else 'ok'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", metavar="NN")
    parser.add_argument("--write", action="store_true", help="write each .ipynb with its outputs")
    parser.add_argument("--limit", type=float, default=SECONDS, metavar="SECONDS", help="for one notebook")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at a time; each needs one core")
    asked = parser.parse_args()

    failed = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        # The last ones first: they train, and a long one at the end would leave the other cores idle.
        order = reversed(scripts(asked.numbers))
        running = {pool.submit(run, script, asked.write, asked.limit): script for script in order}
        for done in as_completed(running):
            complaints, line = done.result()
            print(line, *complaints, sep="\n    ", flush=True)
            if complaints:
                failed.append(running[done].stem)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
