"""Odd surroundings: a fork after use, no home folder, closed streams, a device that is not there; one clear line each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minisbert.training.logging import _plain

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "weights" / "tiny-bert")
FORKS = """
import os, sys
from minisbert import MinisbertError, SentenceEncoder
encoder = SentenceEncoder(sys.argv[1])
encoder.encode("a cat")
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    encoder.encode("a cat") if sys.argv[2] == "use" else SentenceEncoder(sys.argv[1])
except MinisbertError as error:
    os._exit(7 if "spawn" in str(error) else 1)
os._exit(2)
"""
SPAWNS = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from minisbert import SentenceEncoder

def embed(text):
    return SentenceEncoder(sys.argv[1]).encode(text).tolist()

if __name__ == "__main__":
    here = embed("a cat")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        sys.exit(7 if pool.submit(embed, "a cat").result() == here else 1)
"""
NO_HOME = """
import pwd, sys
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
from minisbert.commands import main
sys.exit(main(["similarity", sys.argv[1], "a", "b"]))
"""


def start(*words: str, without: tuple[str, ...] = (), **more: object) -> "subprocess.CompletedProcess[str]":
    settings = {name: value for name, value in os.environ.items() if name not in without}
    settings |= {"PYTHONPATH": str(ROOT), "MINISBERT_OFFLINE": "1", **more.pop("env", {})}
    return subprocess.run([*words], env=settings, capture_output=True, text=True, timeout=300, **more)


@pytest.mark.parametrize("way", ["use", "load"])
def test_a_forked_child_gets_an_error_instead_of_a_hang(way):
    assert start(sys.executable, "-c", FORKS, MODEL, way).returncode == 7


def test_a_spawned_child_works(tmp_path):
    (tmp_path / "spawns.py").write_text(SPAWNS)
    assert start(sys.executable, str(tmp_path / "spawns.py"), MODEL).returncode == 7


def test_no_home_folder():
    result = start(sys.executable, "-c", NO_HOME, MODEL, without=("HOME", "XDG_CACHE_HOME", "MINISBERT_CACHE"))
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)


HOMES = ("HOME", "XDG_CACHE_HOME", "MINISBERT_CACHE", "JAX_COMPILATION_CACHE_DIR")
NOBODY = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")


@pytest.mark.parametrize("engine", ["numpy", "jax"])
def test_a_uid_without_a_passwd_entry(engine):
    """As in OpenShift and Kubernetes. Needs root, and a Python and a clone that others may read."""
    import_it = (sys.executable, "-c", "import minisbert, numpy, tyro")
    if os.geteuid() != 0 or not shutil.which("setpriv") or start(*NOBODY, *import_it).returncode:
        pytest.skip("this user cannot become one without a name, or Python is in a folder that only this one may enter")
    result = start(*NOBODY, *COMMAND, "b", "--engine", engine, without=HOMES)
    assert (result.returncode, result.stderr) == (0, "")


COMMAND = (sys.executable, "-m", "minisbert", "similarity", MODEL, "a")


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-"])
def test_a_closed_stream(closed):
    result = start("sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "b")
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)


@pytest.mark.parametrize(
    ("env", "expected"), [({"JAX_PLATFORMS": "tpu"}, "JAX: Unable to initialize backend"), ({"HOME": "/dev/null"}, "")]
)
def test_one_line_about_what_is_missing(env, expected):
    words = (*COMMAND, "b", "--engine", "jax")
    result = start(*words, env=env, without=("XDG_CACHE_HOME", "MINISBERT_CACHE", "JAX_COMPILATION_CACHE_DIR"))
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == ((2, 1) if expected else (0, 0)), result.stderr
    assert not expected or expected in lines[0]


@pytest.mark.parametrize("kilobytes", [300_000, 600_000, 1_000_000, 1_500_000])
def test_too_little_memory(kilobytes):
    result = start("sh", "-c", f'ulimit -v {kilobytes}; exec "$@"', "sh", *COMMAND, "b", "--engine", "jax")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert "too little memory" in result.stderr


def test_a_folder_with_other_letters_in_the_c_locale(tmp_path):
    folder = tmp_path / "modèle"
    folder.symlink_to(MODEL)
    result = start(sys.executable, "-m", "minisbert", "inspect", str(folder), env={"LC_ALL": "C", "LANG": "C"})
    assert result.returncode == 0, result.stderr


def test_control_characters_are_escaped_on_the_screen(tmp_path):
    (tmp_path / "texts.txt").write_text("a \x1b]0;title\x07 \x9b2J \u202e cat\n", encoding="utf-8")
    for more in ((), ("--json",)):
        words = ("search", "a cat", "--corpus", str(tmp_path / "texts.txt"), "--model", MODEL, *more)
        result = start(sys.executable, "-m", "minisbert", *words)
        assert result.returncode == 0, result.stderr
        assert not set(result.stdout) & set("\x1b\x07\x9b\u202e")
        assert "\\u202e" in result.stdout


def test_names_in_a_model_card_are_text():
    found = _plain("<script>x</script> [a](https://b) |\n---\n`c` \u202e")
    assert not set(found) & set("<>[]|`:\n\u202e") and "script" in found
