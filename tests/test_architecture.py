"""The plan of the house, held by reading the source (ast): who may import whom, where code is compiled, what is kept out.

Imports run down the rows of `ROWS` only. A new file gets its place in that table. Every complaint names file:line.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import COURSE, ROOT, blocks

PACKAGE = Path(__file__).parents[1] / "minisbert"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top of the house to its foundations: a room may import itself and the rows below its own.
ROWS = [
    {"__main__"},
    {"commands", "compat"},
    {"__init__"},  # the public names, lazily imported
    {"explain", "export", "register", "testing"},
    {"cross_encoder"},
    {"mining"},
    {"evaluation"},
    {"corpus"},
    {"search"},
    {"training"},
    {"sentence_encoder"},
    {"plain"},
    {"inference"},
    {"pretrained"},
    {"data"},
    {"sentence_model"},
    {"download"},
    {"model_config"},
    {"modules", "encoders", "text", "quantization"},
    {"checkpoint"},
    {"arguments"},
    {"transformer", "pooling", "similarity", "atomic_write"},
    {"fork"},
    {"errors", "limits", "checksums"},
]
HEIGHT = {room: len(ROWS) - i for i, row in enumerate(ROWS) for room in row}
# The NumPy twin: it imports nothing of the package, and nothing in the package imports it.
ISLAND = "reference"

# The few places that compile; everything else is a plain function that they may compile.
MAY_COMPILE = {
    "transformer/dropout.py",  # only to trace once what each layer needs
    "inference/compiled.py",
    "cross_encoder/encoder.py",
    "training/step_cache.py",
    "explain/attention.py",
    "training/deterministic.py",
    "search/top_k.py",
    "mining/screening.py",
    "export/stablehlo.py",
    "export/runtime.py",
    "testing.py",  # runs a family for its tests
}
COMPILES = {"jax.jit", "jax.pmap", "nnx.jit", "flax.nnx.jit", "jax.experimental.pjit", "jax.pjit"}

# Other frameworks, and modules whose files run code when read.
NEVER_IMPORTED = {
    *("torch", "transformers", "sentence_transformers", "tensorflow"),
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    *("builtins", "code", "codeop", "ctypes", "pty", "zipimport", "pkgutil"),
}
MAY_IMPORT_THIS = {
    # One call of the C library each, by its name in the source: renameat2 and prctl, which Python has not.
    *(("atomic_write.py", "ctypes"), ("commands/supervision.py", "ctypes")),
    ("compat.py", "torch"),  # makes the tensors that sentence-transformers' evaluators ask for
}

NEVER_CALLED = {"eval", "exec", "compile", "__import__", "execfile"}
# The same by their full names, and what else runs code or a shell from data.
NEVER_NAMED = {
    *("torch.load", "torch.hub", "os.system", "os.popen", "os.startfile", "yaml.load", "yaml.unsafe_load"),
    *("pandas.read_pickle", "pd.read_pickle", "sys.modules", "__builtins__"),
}
# A keyword and the one value that it may have.
SAFE_KEYWORDS = {"allow_pickle": False, "weights_only": True, "shell": False}
# Lazy public names, commands and encoders, each from a table in the file.
MAY_IMPORT_BY_NAME = {"__init__.py", "commands/__init__.py", "checkpoint/families/__init__.py"}

# Folders whose files may be named by a value: one that a table in the file gives.
FOLDERS = ("minisbert.commands.", "minisbert.encoders.", "minisbert.checkpoint.families.")

# What the files named in the README must not import, however indirectly: the core tells the story, and these are its edges.
EDGES = {"commands", "compat", "corpus", "download", "explain", "export", "mining", "pretrained", "register"}
EDGES |= {"sentence_encoder", "checkpoint/folder.py", "inference/engines.py", "text/tokenizer.py", "data/sampler.py"}
EDGES |= {"training/trainer.py"}
CORE_LINES = 8_511  # with all that they import; never to grow

LONGEST = 300
# Files allowed to be longer, each with its own bound; to be split by question, and never to grow.
LONGER: dict[str, int] = {}


def room_of(path: str) -> str:
    """The room of a file: the folder or file right under the package."""
    return path.split("/")[0].removesuffix(".py")


def parents_named(path: str, node: ast.ImportFrom) -> str:
    """The absolute module that a `from ... import` names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    package = ["minisbert", *path.split("/")[:-1]]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, at the top of the file or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = parents_named(path, node)
            if module == "minisbert":
                # `from minisbert import limits` names a room; any other name is one of the public ones in __init__.
                for alias in node.names:
                    known = alias.name in HEIGHT or alias.name == ISLAND
                    yield node.lineno, f"minisbert.{alias.name if known else '__init__'}"
            else:
                yield node.lineno, module


def dotted(node: ast.expr) -> str:
    """`jax.jit` of the expression jax.jit; empty for anything else than names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def import_complaints(path: str, tree: ast.Module) -> Iterator[str]:
    """Imports that run up the rows, or across."""
    room = room_of(path)
    if room != ISLAND and room not in HEIGHT:
        yield f"{path}:1: the room {room!r} is in no row; give it a place in ROWS"
        return
    for line, module in imports(path, tree):
        top, _, rest = module.partition(".")
        if top != "minisbert":
            if room == ISLAND and top in ("jax", "flax", "optax", "jaxlib"):
                yield f"{path}:{line}: imports {module}, but reference/ is plain NumPy"
            continue
        other = rest.split(".")[0] or "__init__"
        if other == room:
            continue
        if room == ISLAND:
            yield f"{path}:{line}: imports {module}, but reference/ imports nothing else of minisbert"
        elif other == ISLAND:
            yield f"{path}:{line}: imports {module}, but only tests may import reference/"
        elif other not in HEIGHT:
            yield f"{path}:{line}: imports {module}, which is in no row; give it a place in ROWS"
        elif HEIGHT[other] >= HEIGHT[room]:
            yield f"{path}:{line}: imports {module}, but {room} is not above {other}"


def compile_complaints(path: str, tree: ast.Module) -> Iterator[str]:
    """Compilation outside the few places, under any of its names."""
    if path in MAY_COMPILE:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in COMPILES:
            yield f"{path}:{node.lineno}: {dotted(node)}; only {', '.join(sorted(MAY_COMPILE))} compile"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in COMPILES:
                    yield f"{path}:{node.lineno}: imports {alias.name} of {node.module}; write jax.jit, where it may stand"


def danger_complaints(path: str, tree: ast.Module) -> Iterator[str]:
    """Other frameworks, pickles, code made from data, modules imported by a computed name."""
    for line, module in imports(path, tree):
        top = module.split(".")[0]
        if top in NEVER_IMPORTED and (path, top) not in MAY_IMPORT_THIS:
            yield f"{path}:{line}: imports {top}"
        if top in ("importlib", "runpy", "imp") and path not in MAY_IMPORT_BY_NAME and module != "importlib.metadata":
            yield f"{path}:{line}: imports {module}; only {', '.join(sorted(MAY_IMPORT_BY_NAME))} import by name"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in NEVER_CALLED | NEVER_NAMED:
            yield f"{path}:{node.lineno}: {node.id}"
        elif isinstance(node, ast.Attribute) and dotted(node) in NEVER_NAMED:
            yield f"{path}:{node.lineno}: {dotted(node)}"
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "import_module":
            if not from_a_table(node):
                yield f"{path}:{node.lineno}: imports a module whose name is not from a table here"
        elif isinstance(node, ast.keyword) and node.arg in SAFE_KEYWORDS:
            if not (isinstance(node.value, ast.Constant) and node.value.value is SAFE_KEYWORDS[node.arg]):
                yield f"{path}:{node.value.lineno}: {node.arg}"
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            yield f"{path}:{node.value.lineno}: trust_remote_code"


def from_a_table(call: ast.Call) -> bool:
    """Whether an imported module's name is `TABLE[key]`, or a file of a folder of ours: never a string of a file's."""
    name = call.args[0] if len(call.args) == 1 and not call.keywords else None
    if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
        return name.values[0].value.startswith(FOLDERS)
    return isinstance(name, ast.Subscript) and isinstance(name.value, ast.Name) and name.value.id.isupper()


def docstring_complaints(path: str, tree: ast.Module) -> Iterator[str]:
    """Files, and public functions and classes at their top, that do not say what they are."""
    if not ast.get_docstring(tree):
        yield f"{path}:1: the file has no docstring"
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{path}:{node.lineno}: {node.name} has no docstring"


def length_complaints(path: str, source: str) -> Iterator[str]:
    """Files too long to be read in one sitting."""
    lines, bound = len(source.splitlines()), LONGER.get(path, LONGEST)
    if lines > bound:
        yield f"{path}:{bound + 1}: the file has {lines} lines, more than {bound}; split it by question"


RULES = [import_complaints, compile_complaints, danger_complaints, docstring_complaints]


def complaints(path: str, source: str) -> list[str]:
    """Everything that is against the plan in one file; `path` counts from the package's folder."""
    tree = ast.parse(source)
    found = [complaint for rule in RULES for complaint in rule(path, tree)]
    return [*found, *length_complaints(path, source)]


def test_there_is_something_to_read():
    paths = {file.relative_to(PACKAGE).as_posix() for file in FILES}
    assert {"__init__.py", "transformer/attention.py", "reference/encoder.py", *LONGER} <= paths


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_the_file_keeps_to_the_plan(file):
    path = file.relative_to(PACKAGE).as_posix()
    assert complaints(path, file.read_text(encoding="utf-8")) == []


# path, one bad line, and what the complaint must say. The line is line 2 of the file.
BAD = [
    ("transformer/attention.py", "from minisbert.encoders import bert", "transformer is not above encoders"),
    ("transformer/attention.py", "from ..encoders import bert", "imports minisbert.encoders"),
    ("checkpoint/folder.py", "import minisbert.sentence_model", "checkpoint is not above sentence_model"),
    ("pooling.py", "from minisbert.similarity import normalize", "pooling is not above similarity"),
    ("encoders/bert.py", "from minisbert import sentence_model", "encoders is not above sentence_model"),
    ("evaluation/sts.py", "from minisbert import SentenceEncoder", "evaluation is not above __init__"),
    ("text/tokenizer.py", "if True: from minisbert.encoders import bert", "text is not above encoders"),
    ("errors.py", "from minisbert import limits", "errors is not above limits"),
    ("reference/encoder.py", "from minisbert.errors import InputError", "imports nothing else of minisbert"),
    ("reference/encoder.py", "import jax.numpy as jnp", "plain NumPy"),
    ("training/losses.py", "from minisbert.reference import encoder", "only tests may import reference/"),
    ("cellar.py", "import numpy", "'cellar' is in no row"),
    ("training/trainer.py", "from minisbert.cellar import wine", "in no row"),
    ("transformer/block.py", "block = jax.jit(print)", "jax.jit; only"),
    ("sentence_model.py", "@nnx.jit\ndef _run(): ...", "nnx.jit; only"),
    ("similarity.py", "from jax import jit", "imports jit of jax"),
    ("checkpoint/tensors.py", "import torch.nn", "imports torch"),
    ("checkpoint/tensors.py", "def _read(): import pickle", "imports pickle"),
    ("checkpoint/folder.py", "from importlib import import_module", "import by name"),
    ("checkpoint/folder.py", "kind = __import__('torch')", "__import__"),
    ("checkpoint/folder.py", "value = eval('1')", "eval"),
    ("checkpoint/tensors.py", "array = np.load('x', allow_pickle=True)", "allow_pickle"),
    ("checkpoint/tensors.py", "array = np.load('x', allow_pickle=wanted)", "allow_pickle"),
    ("checkpoint/tensors.py", "from pickle import loads as read", "imports pickle"),
    ("checkpoint/tensors.py", "from _pickle import loads", "imports _pickle"),
    ("data/rows.py", "import marshal, json", "imports marshal"),
    ("data/rows.py", "from shelve import open as opened", "imports shelve"),
    ("data/rows.py", "rows = pandas.read_pickle(file)", "pandas.read_pickle"),
    ("commands/encode.py", "weights = torch.load(file)", "torch.load"),
    ("commands/encode.py", "read(file, weights_only=False)", "weights_only"),
    ("checkpoint/folder.py", "exec(compiled)", "exec"),
    ("checkpoint/folder.py", "run = [eval][0]", "eval"),
    ("checkpoint/folder.py", "from builtins import eval as text", "imports builtins"),
    ("checkpoint/folder.py", "run = __builtins__['eval']", "__builtins__"),
    ("checkpoint/folder.py", "import importlib.util", "import by name"),
    ("checkpoint/folder.py", "import runpy", "import by name"),
    ("checkpoint/folder.py", "module = sys.modules[name]", "sys.modules"),
    ("checkpoint/folder.py", "os.system(values['run'])", "os.system"),
    ("download/wheels.py", "subprocess.run(text, shell=True)", "shell"),
    ("checkpoint/kinds.py", "load(path, trust_remote_code=True)", "trust_remote_code"),
    ("__init__.py", "module = import_module(settings['type'])", "not from a table"),
    ("__init__.py", "module = import_module(name)", "not from a table"),
    ("commands/__init__.py", "module = import_module(f'{name}.{name}')", "not from a table"),
    ("pooling.py", "def mean(hidden_BLD): return 0", "mean has no docstring"),
    ("pooling.py", "class Mean: x = 0", "Mean has no docstring"),
]


@pytest.mark.parametrize("path, line, complaint", BAD)
def test_a_bad_line_is_named(path, line, complaint):
    (found,) = complaints(path, f'"""A file."""\n{line}\n')
    assert complaint in found
    assert found.startswith((f"{path}:2: ", f"{path}:1: the room"))


# The same lines, or nearly, where they may stand.
GOOD = [
    ("encoders/bert.py", "from minisbert.transformer.block import Block"),
    ("encoders/__init__.py", "from minisbert.encoders import bert"),
    ("commands/demo.py", "from minisbert import SentenceEncoder"),
    ("__init__.py", "from importlib import import_module"),
    ("inference/compiled.py", "embed = jax.jit(print)"),
    ("download/hub.py", "pattern = re.compile('a')"),
    ("transformer/block.py", "shapes = nnx.eval_shape(print)"),
    ("reference/pooling.py", "import numpy as np"),
]


@pytest.mark.parametrize("path, line", GOOD)
def test_a_good_line_is_not(path, line):
    assert complaints(path, f'"""A file."""\n{line}\n') == []


def loaded_with(paths: list[str]) -> set[str]:
    """The files of the package that importing these loads, themselves included."""
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        if path in seen:
            continue
        seen.add(path)
        body = ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body
        for node in (node for node in body if isinstance(node, ast.ImportFrom)):
            base = (node.module or "").replace(".", "/")
            names = [base, *(f"{base}/{alias.name}" for alias in node.names)]
            files = (PACKAGE.parent / f"{name}{end}" for name in names for end in (".py", "/__init__.py"))
            paths += [
                file.relative_to(PACKAGE).as_posix() for file in files if file.is_file() and PACKAGE in file.parents
            ]
    return seen - {"__init__.py"}  # it has names only, and imports them when they are used


def test_the_core_imports_no_edge():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    core = sorted(set(re.findall(r"\(minisbert/([\w/]+\.py)\)", readme)))
    assert {"transformer/attention.py", "training/losses.py", "evaluation/sts.py", "search/exact.py"} <= set(core)
    loaded = loaded_with([*core])
    assert {"transformer/dropout.py", "data/rows.py", "checkpoint/convert.py"} <= loaded  # the search finds something
    assert {path for path in loaded if path in EDGES or room_of(path) in EDGES} == set()
    assert sum(len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in loaded) <= CORE_LINES


def package_imports(code: str) -> set[tuple[str, str]]:
    """The names that Python code imports from the package, anywhere in it: (module, name)."""
    nodes = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom))
    return {
        (str(node.module), alias.name) for node in nodes for alias in node.names if str(node.module)[:9] == "minisbert"
    }


def test_every_import_of_a_notebook_or_a_test_finds_its_name():
    """Some of them CI runs late, some it never runs: solutions of exercises, benchmarks, nightly tests."""
    code = {str(path): path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.rglob("*.py"))}
    code |= {name: (ROOT / name).read_text(encoding="utf-8") for name in COURSE}
    code |= {
        f"a solution of {name}": "".join(b.code for b in blocks(name) if b.language == "python") for name in COURSE
    }
    found = {names: place for place, text in code.items() for names in package_imports(text)}
    assert ("minisbert.data.values", "text_hashes") in found
    for (module, name), place in sorted(found.items()):
        module_file = ROOT / f"{module}.{name}".replace(".", "/")
        there = (
            hasattr(importlib.import_module(module), name)
            or module_file.with_suffix(".py").is_file()
            or module_file.is_dir()
        )
        assert there, f"{place}: {module} has no {name}"


def test_a_missing_docstring_and_a_long_file_are_named():
    assert complaints("pooling.py", "x = 1\n") == ["pooling.py:1: the file has no docstring"]
    (found,) = complaints("pooling.py", '"""A file."""\n' + "x = 1\n" * LONGEST)
    assert found.startswith(f"pooling.py:{LONGEST + 1}: the file has {LONGEST + 1} lines")
