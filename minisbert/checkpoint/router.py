"""A Router: several chains of modules in one folder; the task of a text chooses the chain.

    router_config.json          types: module -> class;  structure: route -> modules;  parameters
    query_0_Transformer/ ...    one folder per module; routes may share a module

`encode_query` sets the task "query", `encode_document` "document". The choice of the route follows sentence-transformers 6.2
(Router exists since 5.0; before, `Asym` had the same in `config.json`). Routes for anything but text are refused.
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
from minisbert.errors import InputError, ModelFolderError

ROUTER_FILE = "router_config.json"
TEXT = "text"  # the only modality that is computed
MOST_ROUTES = 100

_ROUTE = re.compile(r"[\w-]{1,100}")
# A key of route_mappings as Python shows a pair: "('query', 'text')", "(None, 'text')".
_NAME = r"(None|'[^'\\]*')"
_MAPPING = re.compile(rf"\({_NAME}, {_NAME}\)")


@dataclass(frozen=True)
class Router:
    """Which route a text takes.

    Args:
        names: the routes, in the folder's order.
        default: the route of a text without a task; None refuses such a text.
        mappings: (task, modality, route), None for any; they come before a route's own name.
    """

    names: tuple[str, ...]
    default: str | None = None
    mappings: tuple[tuple[str | None, str | None, str], ...] = ()

    @property
    def main(self) -> str:
        """The route whose settings are the model's."""
        return self.names[0] if self.default is None else self.default

    def of(self, task: str | None) -> str:
        """The route for a task, or for a text without one.

        Raises:
            InputError: no route fits; the error names the routes.

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
    """A Router's routes, and the modules of each.

    Args:
        relative: the Router's folder, which `read_chain` has found to be within the model's.

    Raises:
        ModelFolderError: a key missing, a module of an unknown class or in no route, a route to nothing.
    """
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
    kinds = {module: _kind(module, name, file) for module, name in types.items()}
    chains = {route: _chain(route, modules, kinds, relative, file) for route, modules in structure.items()}
    unused = kinds.keys() - {module for modules in structure.values() for module in modules}
    if unused:
        raise ModelFolderError(
            f"{file}: no route has the module(s) {', '.join(sorted(unused))} of 'types'. Expected each in 'structure'; "
            "download the model again."
        )
    return _read_parameters(Settings(parameters, f"{file}, 'parameters'"), tuple(structure)), chains


def check_names(names: Iterable[str], where: Path | str) -> None:
    """Names of routes, which become names of folders.

    Raises:
        ModelFolderError: no names, too many, or one that cannot be used.
    """
    names = list(names)
    wrong = [name for name in names if not _ROUTE.fullmatch(name)]
    if wrong or not 1 <= len(names) <= MOST_ROUTES:
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


def _kind(module: str, name: Any, file: Path) -> str:
    inside(file.parent, module, file)
    if module in ("", ".") or len(Path(module).parts) != 1 or not is_text(module):
        raise ModelFolderError(
            f"{file}: the module {module!r} in 'types' is not the name of a folder. Download the model again."
        )
    kind = MODULE_TYPES.get(name) if isinstance(name, str) else None
    if kind is None or kind == "router":
        raise unknown_type(module, name, file, in_router=True)
    return kind


def _chain(route: str, modules: Any, kinds: dict[str, str], relative: str, file: Path) -> list[Part]:
    if not isinstance(modules, list) or not modules or len(modules) > limits.LAYERS:
        raise ModelFolderError(
            f"{file}: route {route!r} is {modules!r:.200}, expected a list of modules. Download the model again."
        )
    unknown = [module for module in modules if not isinstance(module, str) or module not in kinds]
    if unknown:
        raise ModelFolderError(
            f"{file}: route {route!r} names {', '.join(f'{module!r:.80}' for module in unknown)}, which 'types' does not "
            "have. Download the model again."
        )
    return [Part(kinds[module], f"{relative}/{module}" if relative not in ("", ".") else module) for module in modules]


def _read_parameters(settings: Settings, names: tuple[str, ...]) -> Router:
    settings.known(["default_route", "allow_empty_key", "route_mappings"])
    default = settings.choice("default_route", [*names, None], default=None, why="the routes of 'structure', or null")
    if settings.flag("allow_empty_key", default=True) and default is None:
        default = names[0]
    mappings = []
    table = {}
    if settings.values.get("route_mappings") is not None:
        table = _objects(settings, "route_mappings", "an object of (task, modality) to route, or null")
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


def routes_json(router: Router) -> dict[str, Any]:
    """The 'parameters' of router_config.json."""
    content: dict[str, Any] = {"default_route": router.default, "allow_empty_key": router.default is not None}
    if router.mappings:  # sentence-transformers before 5.4 does not know the key
        content["route_mappings"] = {str((task, modality)): route for task, modality, route in router.mappings}
    return content
