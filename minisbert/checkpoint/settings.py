"""Reads the files of a model folder without trusting them: no links out, typed values; json_file.py bounds their sizes.

`ModelFiles` opens each file once. `Settings` reads one JSON object key by key, and names every key that is missing or wrong in
one error. Nothing that a file names is ever imported or called: names are looked up in tables.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from minisbert.checkpoint.json_file import is_text, parse_json, read_bytes
from minisbert.checkpoint.keys import BOUNDS, CONFIG, HARMLESS, REFUSED, Effect
from minisbert.errors import ModelFolderError, folder_error

C = TypeVar("C")
_MISSING = object()
# Keys of any encoder's config.json that ask for another computation.
_NOT_COMPUTED = tuple(key for key, effect in CONFIG.items() if effect == REFUSED)
# The nonlinearities of a feed-forward net; transformer/block.py has their functions.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
# The files of a tokenizer, which are written back unchanged.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "sentencepiece.bpe.model"),
)
# The files of a model folder that are read.
_READ = (".json", ".txt", ".safetensors", ".model", ".bin")


class ModelFiles:
    """The files of one model folder, each opened once, none of them outside the folder.

    A folder from an archive or a git clone can hold links to any file of this machine, and saving would copy it. Links
    inside the folder are followed, and those of the Hugging Face cache (snapshots/<commit>/... -> ../../blobs/<digest>).

    Args:
        allow_links: follow the others too, as Nix, DVC and git-annex store weights.
        find: the folder of the model that an adapter changes, from its name.
        adapter: the one to use where the folder has several.
    """

    def __init__(
        self, folder: Path, allow_links: bool = False, find: Callable[[str], Path] = Path, adapter: str | None = None
    ):
        self.folder, self.allow_links, self.find, self.adapter = Path(folder), allow_links, find, adapter
        if not self.folder.is_dir():
            raise ModelFolderError(f"{folder}: no such folder. Expected a model folder or a known model name.")
        home = self.folder.resolve()
        self._stores = [home]
        if home.parent.name == "snapshots":
            self._stores.append(home.parent.parent / "blobs")  # not resolved: a link could lead anywhere
        self._names: dict[Path, set[str]] = {}
        self._json: dict[Path, Any] = {}
        self.ignored: dict[str, dict[str, Any]] = {}  # file -> its settings that change no embedding

    def has(self, file: Path) -> bool:
        """Whether there is such a file; raises ModelFolderError if one in its folder is a link out of the model folder."""
        place = file.parent
        if place not in self._names:
            names = set()
            # realpath, because Path.resolve fails where links lead in a circle.
            real = os.path.realpath(place)
            linked = place != self.folder and real != str(self._stores[0] / place.relative_to(self.folder))
            for entry in sorted(os.scandir(place), key=os.fspath) if os.path.isdir(place) else ():
                names.add(entry.name)
                if entry.name.endswith(_READ) and (linked or entry.is_symlink()):
                    self.refuse_link_out(Path(entry))
            self._names[place] = names
        return file.name in self._names[place]

    def refuse_link_out(self, file: Path) -> None:
        """Raises ModelFolderError for a link that leads out of the model folder."""
        try:
            target = file.resolve(strict=True)
        except (OSError, RuntimeError):  # leads nowhere, or in a circle
            target = None
        if target is None or not (self.allow_links or any(target.is_relative_to(store) for store in self._stores)):
            raise ModelFolderError(
                f"{file}: is a link that leads out of the model folder, to {target or 'nowhere'}. Expected a file in the "
                "folder. If the link is yours, put the file there or load with allow_links=True; else do not use this model."
            )

    def json(self, file: Path) -> Any:
        """The content of a JSON file; see `read_bytes` and `parse_json`."""
        if file not in self._json:
            self.has(file)
            self._json[file] = parse_json(read_bytes(file), file)
        return self._json[file]

    def tokenizer_files(self, place: Path) -> dict[str, bytes]:
        """Name -> content of the tokenizer's files that are there; see `read_bytes`."""
        contents = {}
        for name in TOKENIZER_FILES:
            if self.has(place / name):
                contents[name] = read_bytes(place / name)
        return contents


def is_known_code(name: Any, known: tuple[str, ...]) -> bool:
    """Whether a name in `auto_map` begins as one of those whose computation minisbert has."""
    return isinstance(name, str) and name.rpartition("--")[2].startswith((*known, "configuration_"))


class Settings:
    """One JSON object, read key by key; `finish()` raises all complaints together."""

    def __init__(self, values: Any, where: Path | str):
        if not isinstance(values, dict):
            raise folder_error(where, f"holds a {type(values).__name__}", "a JSON object {...}")
        self.values: dict[str, Any] = values
        self.where = where
        self.complaints: list[str] = []
        self.names: dict[str, str] = {}  # key -> what to call it in a complaint, where the file has another

    def rename(self, older: Mapping[str, str]) -> None:
        """Read what a file has under older names (old -> new); complaints keep the name that the file uses."""
        for old, new in older.items():
            if new not in self.values:
                self.names[new] = old
                if old in self.values:
                    self.values = {**self.values, new: self.values[old]}
            elif self.values.get(old) not in (None, self.values[new]):
                self.complain(old, f"{self.values[new]!r:.100}, as {new!r} has it, which means the same")

    def complain(self, key: str, expected: str) -> None:
        """Collect that `key` is not as expected."""
        found = f"is {self.values[key]!r:.200}" if key in self.values else "is missing"
        self.complaints.append(f"{self.names.get(key, key)!r} {found}; expected {expected}")

    def size(self, key: str, default: Any = _MISSING, bounds: tuple[float, float] | None = None) -> Any:
        """A number within bounds, by default `BOUNDS[key]`: whole numbers include both, others not the upper one.

        With None as the default, null and a missing key are None.
        """
        value = self.values.get(key, default)
        if value is None and default is None:
            return None
        low, high = bounds or BOUNDS[key]
        if isinstance(high, int):
            if type(value) is int and low <= value <= high:
                return value
            self.complain(key, f"a whole number from {low} to {high}")
        else:
            # The comparison is false for NaN, and takes whole numbers of any size.
            if type(value) in (int, float) and low <= value < high:
                return float(value)
            self.complain(key, f"a number from {low:g} up to {high:g}")
        return low

    def flag(self, key: str, *, default: Any = _MISSING) -> bool:
        """true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.complain(key, "true or false")
        return value is True

    def choice(self, key: str, choices: Collection[Any], *, default: Any = _MISSING, why: str = "") -> Any:
        """One of the values that are computed."""
        value = self.values.get(key, default)
        for one in choices:
            if value == one and isinstance(value, bool) == isinstance(one, bool):  # 0 == False, but not meant
                return value
        names = ", ".join(sorted(map(repr, choices)))
        self.complain(key, (f"one of {names}" + (f" ({why})" if why else "")) if names else why)
        return next(iter(choices), None)

    def text(self, key: str, *, default: Any = _MISSING) -> str:
        """A string, or None where that is the default."""
        value = self.values.get(key, default)
        if (value is None and default is None) or is_text(value):
            return cast(str, value)
        self.complain(key, "a string")
        return ""

    def prompts(self) -> tuple[dict[str, str], str | None]:
        """The prompts of a model by name, null for "" as in sentence-transformers, and the name of the default one."""
        given, default = self.values.get("prompts"), self.text("default_prompt_name", default=None)
        if isinstance(given, dict) and None in given.values():
            given = {name: "" if text is None else text for name, text in given.items()}
        prompts: dict[str, str] = given or {}
        if (given is not None and not isinstance(given, dict)) or not all(map(is_text, (*prompts, *prompts.values()))):
            self.complain("prompts", "an object of name to text")
            prompts = {}
        if default is not None and default not in prompts:
            self.complain("default_prompt_name", f"one of the prompts {sorted(prompts)!r:.1000}")
        return prompts, default

    def encoder(
        self,
        config: type[C],
        *,
        width: str = "hidden_size",
        heads: str | None = "num_attention_heads",
        even_heads: bool = False,
        remote_code: tuple[str, ...] = (),
        positions: tuple[str, ...] = ("absolute",),
        **read: Any,
    ) -> C:
        """A family's Config from its config.json, with the checks that all transformers share.

        By the type of its field a setting is true or false, an activation, or a number within `BOUNDS`.

        Args:
            width, heads: the keys of the model width and of the number of attention heads that divides it; None if none does.
            even_heads: the width of a head must be even.
            remote_code: how the names of classes begin that `auto_map` may name, because the family computes what they do.
            positions: the values of `position_embedding_type` that stand for the positions that are computed.
            read: the fields that are read already, because they have other bounds or depend on others.
        """
        self.choice("position_embedding_type", positions, default=positions[0], why="others are not computed")
        code = self.values.get("auto_map")
        if remote_code and isinstance(code, dict) and all(is_known_code(name, remote_code) for name in code.values()):
            self.values = {key: value for key, value in self.values.items() if key != "auto_map"}
        self.absent(
            _NOT_COMPUTED, "only encoders with dense float weights are computed, and no code of a folder is run"
        )
        for field in dataclasses.fields(config):  # type: ignore[arg-type]
            default = _MISSING if field.default is dataclasses.MISSING else field.default
            if field.name in read:
                continue
            if field.type is bool:
                read[field.name] = self.flag(field.name, default=default)
            elif field.type is str:
                read[field.name] = self.choice(field.name, ACTIVATIONS, default=default)
            else:
                read[field.name] = self.size(field.name, default)
        if "pad_token_id" not in read:
            self.size("pad_token_id", None, (0, read["vocab_size"] - 1))
        if heads and not self.complaints and read[width] % (read[heads] * (2 if even_heads else 1)):
            even = " and of even width" if even_heads else ""
            self.complain(heads, f"a divisor of {width} {read[width]}, so that heads are equally wide{even}")
        self.finish()
        return config(**read)

    def absent(self, keys: Iterable[str], why: str) -> None:
        """Keys that must not be set, because what they ask for is not computed."""
        for key in keys:
            if self.values.get(key) not in (None, False, [], {}):
                self.complain(key, f"no such setting, because {why}")

    def known(self, keys: Collection[str]) -> None:
        """Allow no key but these: an unknown one might change what the model computes."""
        for key in self.values:
            if key not in keys:
                self.complain(key, "no such setting: minisbert does not know it, and guessing could change the result")

    def by_table(self, table: Mapping[str, Effect]) -> dict[str, Any]:
        """Check each key by a table of keys.py; returns those that are harmless."""
        self.known(table)
        harmless = {}
        for key, value in self.values.items():
            effect = table.get(key)
            if isinstance(effect, tuple) and not any(type(value) is type(one) and value == one for one in effect):
                self.complain(key, "one of " + ", ".join(map(repr, effect)) + ", which change no embedding")
            elif effect == REFUSED:
                self.absent([key], "what it asks for is not computed")
            elif effect == HARMLESS or isinstance(effect, tuple):
                harmless[key] = value
        return harmless

    def finish(self, help: str = "Use another model, or correct the file.") -> None:
        """Raise one error with every complaint, if there is one."""
        if self.complaints:
            raise ModelFolderError(f"{self.where}: {'; '.join(self.complaints)}. {help}")


def first_architecture(config: dict[str, Any]) -> str:
    """The class of transformers that wrote a config.json, or an empty text."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""
