"""Fixtures of the tests that run commands: tiny models, and a way to run a command in this process."""

# ruff: noqa: E402
import gc

# Next to nothing is deleted before the first test; looking for it is a sixth of the time of all imports and the collection.
gc.disable()

import os
from importlib.metadata import version
from importlib.util import find_spec

# Compiling is most of what many tests do: XLA without optimizations takes a fifth of the time, and what they say holds of
# every program. The flags are those of the processes that a test starts, too. The newer emitters, which XLA takes by default
# (and of JAX 0.12 always), set up MLIR anew for each fused operation. Programs as users compile them: `optimized` below.
OPTIMIZED = {"xla_backend_optimization_level": 3}
FLAGS = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # an unknown flag ends the process
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
if find_spec("libtpu") is None:  # its compiler would read them too; tpu_costs.json has the costs of optimized programs
    os.environ.setdefault("XLA_FLAGS", FLAGS)

import functools
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from minisbert import SentenceEncoder, sentence_encoder
from minisbert.commands import main
from minisbert.cross_encoder import encoder as cross_encoder
from minisbert.inference.compiled import compiled_output, enable_compilation_cache
from minisbert.inference.engines import replace_params
from minisbert.inference.token_budgets import default_shapes
from minisbert.training.step_cache import compiled_step, shared_programs

# Compiled programs are saved between runs, and shared with the processes that tests start. A test compiles many small ones,
# the operations outside jax.jit: all are saved.
if folder := enable_compilation_cache():
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
# Tracing makes many objects, few of them in cycles: to look for those after every 700 takes 2 to 10 % of a test's time.
gc.set_threshold(50_000, 20, 10)

# One worker of two grew to 10 GB where it kept every program, and to 8 GB with this limit.
MOST_PROGRAMS = 1500
_kept = 0


def _count(event: str, seconds: float, **_: object) -> None:
    global _kept
    if event == "/jax/core/compile/backend_compile_duration":
        _kept += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow ones first: at the end one worker would compute alone. Those of .ci/nightly where the command names them."""
    if "nightly" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = (item for item in items if not item.get_closest_marker("nightly"))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Tests look for cycles among their own objects only."""
    gc.freeze()
    gc.enable()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files of tests, delete the programs if they are many."""
    global _kept
    if _kept > MOST_PROGRAMS and nextitem is not None and nextitem.path != item.path:
        jax.clear_caches()
        _kept = 0


def _few_shapes(*arguments: object) -> object:
    shapes = default_shapes(*arguments)
    return replace(shapes, lengths=(16, 64), single_lengths=(16, 64)) if shapes.fixed else shapes


@pytest.fixture(autouse=True)
def few_shapes(request, monkeypatch):
    """Batches of two lengths up to 64 tokens, where users have six: each is a program."""
    if "all_shapes" not in request.fixturenames and request.node.get_closest_marker("real") is None:
        for module in (sentence_encoder, cross_encoder):
            monkeypatch.setattr(module, "default_shapes", _few_shapes)


@pytest.fixture
def all_shapes():
    """Batches of all lengths, as users have them."""


@pytest.fixture
def optimized(all_shapes, monkeypatch):
    """Programs as users compile them: of every `jax.jit(...)` that the test calls, itself or in the package."""
    jit = jax.jit

    def optimized_jit(function=None, *, compiler_options=None, **options):
        options["compiler_options"] = OPTIMIZED | (compiler_options or {})
        return functools.partial(jit, **options) if function is None else jit(function, **options)

    shared = compiled_output, compiled_step, shared_programs
    monkeypatch.setattr(jax, "jit", optimized_jit)
    for programs in shared:
        programs.cache_clear()
    yield
    for programs in shared:
        programs.cache_clear()


@pytest.fixture(autouse=True)
def real_models_are_optimized(request):
    """They have numbers of other libraries to meet, and much to compute."""
    if request.node.get_closest_marker("real"):
        request.getfixturevalue("optimized")


WEIGHTS = Path(__file__).parents[1] / "weights"
SENTENCES = ["a man plays the guitar", "", "a woman sings", 'the "big" dog', "é 中 cats"]

# A model compiles once for all tests instead of once a command.
_load = functools.cache(SentenceEncoder.load)


def _load_once(*args, **options) -> SentenceEncoder:
    """A copy that `train` may let go of; what is compiled is shared."""
    encoder = _load(*args, **options)
    return replace_params(encoder, encoder.params)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def offline_and_compiled_once(monkeypatch):
    monkeypatch.setenv("MINISBERT_OFFLINE", "1")
    monkeypatch.setattr(SentenceEncoder, "load", staticmethod(_load_once))


@pytest.fixture(autouse=True)
def commands_are_offline(request):
    if request.path.parent.name == "commands":
        request.getfixturevalue("offline_and_compiled_once")


@pytest.fixture
def tiny_bert() -> str:
    return str(WEIGHTS / "tiny-bert")


@pytest.fixture(params=["tiny-bert", "tiny-mpnet"])
def tiny(request) -> str:
    return str(WEIGHTS / request.param)


@pytest.fixture
def sentences() -> list[str]:
    return list(SENTENCES)


@pytest.fixture
def expected(tiny_bert):
    """The embeddings of the sentences, without a command, by the engine that a command takes for a few short texts."""
    return _load(tiny_bert, engine="numpy", compute_dtype="float32", offline=False).encode(SENTENCES)


@pytest.fixture
def run(capsys, monkeypatch, offline_and_compiled_once) -> Callable[..., Result]:
    """Runs a command: its words, and the bytes on stdin."""

    def run_command(*words: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    return run_command


@pytest.fixture
def tables_as_before():
    """What a test or a page registers is gone after it."""
    from minisbert import pooling, similarity
    from minisbert.checkpoint import folder, modules
    from minisbert.encoders import FAMILIES
    from minisbert.training.losses import LOSSES

    tables = [LOSSES, FAMILIES, pooling.POOLINGS, pooling.TRAINED_POOLINGS, modules.TRAINED_RULES]
    tables += [similarity.SIMILARITIES, similarity.PAIRWISE_SIMILARITIES]
    lists = [modules.POOLING_MODES, folder.SIMILARITY_NAMES]
    before = [dict(table) for table in tables], [list(names) for names in lists]
    yield
    for table, rows in zip(tables, before[0], strict=True):
        table.clear()
        table.update(rows)
    for names, rows in zip(lists, before[1], strict=True):
        names[:] = rows
    pooling.COUNT_PLACES.clear()
