"""A Router: several chains of modules in one folder; the task of a text chooses the chain.

    router_config.json          types: module -> class;  structure: route -> modules;  parameters
    query_0_Transformer/ ...    one folder per module; routes may share a module

The choice follows sentence-transformers 6.2; before 5.0 `Asym` had the same in config.json. All routes are for texts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.json_file import is_text
from minisbert.checkpoint.kinds import MODULE_TYPES, Part, unknown_type
from minisbert.checkpoint.settings import ModelFiles, Settings
from minisbert.checkpoint.tensors import inside
from minisbert.errors import InputError, ModelFolderError, folder_error

ROUTER_FILE = "router_config.json"
TEXT = "text"  # the only modality that is computed
MOST_ROUTES = 100

_ROUTE = re.compile(r"[\w-]{1,100}")
# A key of route_mappings as Python shows a pair: "('query', 'text')", "(None, 'text')".
_NAME = r"(None|'[^'\\]*')"
_MAPPING = re.compile(rf"\({_NAME}, {_NAME}\)")


@dataclass(frozen=True)
class Router:
    """Which route a text takes."""

    names: tuple[str, ...]  # in the folder's order
    default: str | None = None  # the route of a text without a task; None refuses such a text
    # (task, modality, route), None for any; they come before a route's own name.
    mappings: tuple[tuple[str | None, str | None, str], ...] = ()

    @property
    def main(self) -> str:
        """The route whose settings are the model's."""
        return self.names[0] if self.default is None else self.default

    def of(self, task: str | None) -> str:
        """The route for a task, or for a text without one; raises InputError if none fits.

        Example:
            >>> router = Router(("query", "document"), default="document")
            >>> router.of("query"), router.of(None)
            ('query', 'document')
        """
        table = {(a_task, modality): route for a_task, modality, route in self.mappings}
        for key in ((task, TEXT), (task, None), (None, TEXT), (None, None)):
            if key in table:
                return table[key]
        for name in (task, TEXT):
            if name in self.names:
                return name
        if task is not None or self.default is None:
            mapped = ", ".join(f"task {a_task!r} -> {route!r}" for a_task, _, route in self.mappings)
            raise InputError(
                f"task is {task!r}, but the routes of this model are {', '.join(map(repr, self.names))}"
                f"{mapped and f', for {mapped}'}. Expected a task that one of them takes"
                f"{'' if self.default is None else ', or None for the default route'}."
            )
        return self.default


def read_router(files: ModelFiles, relative: str) -> tuple[Router, dict[str, list[Part]]]:
    """A Router's routes, and the modules of each; `relative` is its folder, which is within the model's."""
    place = files.folder / relative
    file = place / ROUTER_FILE
    if not files.has(file) and files.has(place / "config.json"):
        file = place / "config.json"  # Asym's, before 5.0
    settings = Settings(files.json(file), file)
    settings.known(["types", "structure", "parameters"])
    types = _objects(settings, "types", "an object of module to class")
    structure = _objects(settings, "structure", "an object of route to a list of modules")
    parameters = _objects(settings, "parameters", "an object with 'default_route'")
    settings.finish()
    check_names(structure, file)
    parts = {module: _part(module, name, relative, file) for module, name in types.items()}
    chains = {}
    for route, modules in structure.items():
        if not isinstance(modules, list) or not modules or len(modules) > limits.LAYERS:
            raise folder_error(file, f"route {route!r} is {modules!r:.200}", "a list of modules")
        if unknown := [module for module in modules if not isinstance(module, str) or module not in parts]:
            raise folder_error(
                file, f"route {route!r} names {', '.join(f'{one!r:.80}' for one in unknown)}", "modules of 'types'"
            )
        chains[route] = [parts[module] for module in modules]
    if unused := parts.keys() - {module for modules in structure.values() for module in modules}:
        found = f"no route has the module(s) {', '.join(sorted(unused))} of 'types'"
        raise folder_error(file, found, "each in 'structure'")
    return _read_parameters(Settings(parameters, f"{file}, 'parameters'"), tuple(structure)), chains


def check_names(names: Iterable[str], where: Path | str) -> None:
    """Raises ModelFolderError for names of routes that cannot be names of folders, for none, and for too many."""
    names = list(names)
    if not all(map(_ROUTE.fullmatch, names)) or not 1 <= len(names) <= MOST_ROUTES:
        raise ModelFolderError(
            f"{where}: the routes in 'structure' are {names!r:.200}. Expected 1 to {MOST_ROUTES} names of letters, digits, "
            "- and _; correct the file, or use another model."
        )


def _objects(settings: Settings, key: str, expected: str) -> dict[str, Any]:
    value = settings.values.get(key)
    if not isinstance(value, dict):
        settings.complain(key, expected)
        return {}
    return value


def _part(module: str, name: Any, relative: str, file: Path) -> Part:
    inside(file.parent, module, file)
    if module in ("", ".") or len(Path(module).parts) != 1 or not is_text(module):
        raise folder_error(file, f"'types' has the module {module!r}", "the name of a folder")
    kind = MODULE_TYPES.get(name) if isinstance(name, str) else None
    if kind is None or kind == "router":
        raise unknown_type(module, name, file, in_router=True)
    return Part(kind, module if relative in ("", ".") else f"{relative}/{module}")


def _read_parameters(settings: Settings, names: tuple[str, ...]) -> Router:
    settings.known(["default_route", "allow_empty_key", "route_mappings"])
    default = settings.choice("default_route", [*names, None], default=None, why="the routes of 'structure', or null")
    if settings.flag("allow_empty_key", default=True) and default is None:
        default = names[0]
    mappings = []
    given = settings.values.get("route_mappings") is not None
    table = _objects(settings, "route_mappings", "an object of (task, modality) to route, or null") if given else {}
    for key, route in table.items():
        found = _MAPPING.fullmatch(key)
        if not found or found[2] not in ("None", repr(TEXT)) or route not in names:
            settings.complain(
                "route_mappings",
                f"keys like \"('query', '{TEXT}')\" (a task and a modality, None for any; {TEXT} alone is computed), each "
                f"with a route of {', '.join(names)}; found {key!r:.80} -> {route!r:.80}",
            )
            continue
        task, modality = (None if text == "None" else text[1:-1] for text in found.groups())
        mappings.append((task, modality, route))
    settings.finish()
    return Router(names, default, tuple(mappings))
