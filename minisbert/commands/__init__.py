"""The command line: `minisbert COMMAND ...`, one file per command.

A command is a function named like its file; tyro derives its flags and help from its signature and docstring. Only the file of
the requested command is imported, and heavy libraries (jax, NumPy) are imported inside the functions, so that help and error
messages appear quickly.
"""

import ast
import functools
import gc
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from minisbert import __version__
from minisbert.errors import InputError, MinisbertError, TrainingStopped

COMMANDS = (
    *("demo", "encode", "similarity", "inspect", "download", "verify", "train", "evaluate", "search", "retrieval"),
    *("explain", "mine", "cluster", "pairwise-cost", "tune", "export", "convert"),
)
ALIASES = {"headline": "pairwise-cost"}  # former names

# Exit codes: 0 success, 1 a comparison failed, 2 an error in the call or its files; and the shell's codes for three signals.
MISTAKE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
# A terminal's control sequences (ESC, C1) and marks that turn the reading order around: a text must not move the cursor or
# hide other text. They are shown as \uXXXX, which JSON reads as the same character.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def main(argv: list[str] | None = None) -> int:
    """Run one command, by default that of this process; returns the exit code.

    Example:
        >>> main(["--version"])
        minisbert 0.1.0
        0
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`): a file opened later must not get its number
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), "r" if number == 0 else "w"))  # noqa: SIM115
    own_process = argv is None
    if argv is None:
        # Imports and tracing make many objects, few in cycles: to look for those takes up to a tenth of a start.
        gc.set_threshold(50_000, 20, 10)
        argv = sys.argv[1:]
        for number, handler in ((signal.SIGINT, _interrupt), (signal.SIGTERM, _terminate)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, handler)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # characters that the terminal cannot show are escaped
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe (`minisbert inspect ... | head`): drop the rest of the output silently.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        # Python's shutdown takes other handlers away, and a further Ctrl-C would kill it on its way out.
        if own_process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        warnings.simplefilter("ignore")  # from libraries that are shut down early
        print("minisbert: interrupted", file=sys.stderr)
        return INTERRUPTED
    except TrainingStopped as stopped:
        print(f"minisbert: {stopped}", file=sys.stderr)
        return TERMINATED
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "can't start new thread" in text:
            text = f"too little memory ({text or 'an allocation failed'}). Use a smaller model."
        elif "Unable to initialize backend" in text or "RESOURCE_EXHAUSTED" in text:  # JAX's own, about its devices
            text = f"JAX: {text.splitlines()[0]}. Check JAX_PLATFORMS, or free some memory."
        else:
            raise
        print(f"minisbert: error: {text}", file=sys.stderr)
        return MISTAKE
    except (MinisbertError, OSError) as error:
        # An error without a file name comes from a failed print: stdout is on a full disk, for example.
        message: object = error
        if not isinstance(error, MinisbertError) and error.filename is None:
            message = f"stdout: cannot be written ({error.strerror or error}). Make room."
        print(f"minisbert: error: {escaped(str(message))}", file=sys.stderr)
        return MISTAKE


def _can_write(folder: Path) -> bool:
    """Whether compiled programs can be saved there; by a container's user often not."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)


def _interrupt(*_: object) -> None:
    """The first Ctrl-C lets the command tidy up; a second one ends the process without a word."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


def _terminate(*_: object) -> None:
    """SIGTERM tidies up too, and ends with the shell's code for it; training saves its state first (on_sigterm)."""
    raise SystemExit(TERMINATED)


def _run(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0 if argv else MISTAKE
    if name == "--version":
        print(f"minisbert {__version__}")
        return 0
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        raise InputError(f"{name!r} is not a command. Expected one of {', '.join(COMMANDS)}; see `minisbert --help`.")

    import tyro

    from minisbert.download.locate import cache_folder

    if os.environ.get("MINISBERT_COMPILATION_CACHE") != "0" and _can_write(cache_folder()):
        # JAX reads these when a command imports it. `enable_compilation_cache` does the same, but would import JAX for
        # `--help` too.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    for plugin in entry_points(group="minisbert.plugins"):  # installed packages that register parts (register.py)
        plugin.load()()
    function = name.replace("-", "_")
    module = import_module(f"minisbert.commands.{function}")
    command, words = getattr(module, function), argv[1:]
    if name == "train":  # a recipe sets other defaults
        command, words = module.prepare(words)
    try:
        code: int = tyro.cli(
            escaping(command),
            prog=f"minisbert {name}",
            args=words,
            config=(tyro.conf.FlagCreatePairsOff,),  # --json, but no --no-json
        )
        return code
    except SystemExit as end:  # tyro exits this way after printing help or an error about a flag
        return end.code if isinstance(end.code, int) else 0


def _purpose(name: str) -> str:
    """The first line of a command's docstring, read without importing its file."""
    function = name.replace("-", "_")
    tree = ast.parse(Path(__file__).with_name(f"{function}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").split("\n")[0]


def _help() -> str:
    commands = "\n".join(f"  {name:<15}{_purpose(name)}" for name in COMMANDS)
    return (
        "usage: minisbert COMMAND ...\n\nSentence-BERT: sentences to embeddings that can be compared.\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n  -h, --help  this page; `minisbert COMMAND --help` explains a command\n  --version   the version\n\n"
        "A MODEL is a folder, a known name (all-mpnet-base-v2), or a name on the Hugging Face hub (org/name)."
    )


def escaped(text: str) -> str:
    """The text with its control characters as \\uXXXX; tabs and line ends stay.

    Example:
        >>> print(escaped("a\\x1b[2Jb"))
        a\\u001b[2Jb
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _Screen:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escaped(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escaping(command: Callable[..., int]) -> Callable[..., int]:
    """The command with `escaped` output; its help, which tyro prints in colours, is not escaped."""
    function = getattr(command, "func", command)  # of a partial
    # tyro reads the docstring of the function itself, and would keep the line breaks in the text of an argument.
    function.__doc__ = re.sub(r"\n {12,}", " ", function.__doc__ or "")

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        with redirect_stdout(_Screen(sys.stdout)):
            return command(*args, **kwargs)

    run.__doc__ = function.__doc__
    return run
