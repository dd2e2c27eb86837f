"""The catalog: everything that the built-ins and the installed plugins offer, by name."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pluggy

from finch_hub import errors
from finch_hub.plugins import hooks
from finch_hub.plugins.descriptors import (
    BaseSource,
    DatasetFormat,
    Descriptor,
    Evaluator,
    ExportFormat,
    Listener,
    Preset,
    Resolver,
    Strategy,
)

D = TypeVar("D", bound=Descriptor)
_Report = Callable[[errors.Problem], None]

BUILTIN = "finch-hub"
"""Name of the plugin that the built-ins are."""


class Offers(Mapping[str, D], Generic[D]):
    """What all plugins offer of one kind, by name, in the order in which it is to be asked.

    Looking a name up raises `NotFound`, with the near names, where nobody offers it, and `PluginError`, naming both
    plugins, where two do; the other names stay usable.
    """

    def __init__(self, kind: str, offered: Sequence[tuple[str, D]]) -> None:
        self._kind = kind
        self._by_name: dict[str, list[tuple[str, D]]] = {}
        for plugin, descriptor in offered:
            self._by_name.setdefault(descriptor.name, []).append((plugin, descriptor))

    def __getitem__(self, name: str) -> D:
        if name not in self._by_name:
            raise errors.NotFound(self._kind, name, self._by_name)
        (_, descriptor), *others = self._by_name[name]
        if others:
            raise errors.PluginError(self._clash(name))
        return descriptor

    def __iter__(self) -> Iterator[str]:
        return (name for name, offers in self._by_name.items() if len(offers) == 1)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return len(self._by_name.get(name, ())) == 1 if isinstance(name, str) else False

    def plugin_of(self, name: str) -> str:
        """Return the name of the plugin that offers it, with the errors of a lookup."""
        self[name]
        return self._by_name[name][0][0]

    def clashes(self) -> tuple[str, ...]:
        """Say which names are offered twice, and by whom."""
        return tuple(self._clash(name) for name, offers in self._by_name.items() if len(offers) > 1)

    def _clash(self, name: str) -> str:
        owners = " and ".join(plugin for plugin, _ in self._by_name[name])
        return f"{self._kind} {name!r} is offered by {owners}; uninstall one of them"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """One plugin that was found; `version` is its distribution's, None for an object handed over in code."""

    name: str
    version: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """What is on offer, which plugins it comes from, and what kept others from offering anything."""

    presets: Offers[Preset]
    strategies: Offers[Strategy]
    resolvers: Offers[Resolver]
    dataset_formats: Offers[DatasetFormat]
    base_sources: Offers[BaseSource]
    export_formats: Offers[ExportFormat]
    evaluators: Offers[Evaluator]
    listeners: Offers[Listener]
    plugins: tuple[Plugin, ...]
    problems: tuple[errors.Problem, ...]

    def all_offers(self) -> tuple[Offers[Any], ...]:
        """Return the offers of every kind."""
        return tuple(getattr(self, attribute) for attribute in _HOOKS)

    def base_source_of(self, source: str) -> BaseSource:
        """Return the first base source that accepts the text, strangers' before the built-in ones.

        Raises:
            NotFound: nobody knows how to fetch it.

        """
        for candidate in self.base_sources.values():
            if candidate.accepts(source):
                return candidate
        raise errors.NotFound("base source for", source)


def load_catalog(*, entry_points: bool = True, extra: Sequence[object] = ()) -> Catalog:
    """Gather what the built-ins, the installed plugins and the given plugin objects offer.

    A plugin that cannot be imported, raises, or offers something of the wrong type is left out and reported in
    `problems`; it disables nothing else.
    """
    problems: list[errors.Problem] = []
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    plugins: list[Plugin] = []
    # Strangers come first, so that their formats and base sources are asked before the general built-in ones.
    for plugin in extra:
        name = _free_name(manager, getattr(plugin, "__name__", type(plugin).__name__))
        if _register(manager, plugin, name, problems.append):
            plugins.append(Plugin(name=name))
    if entry_points:
        plugins += _register_installed(manager, problems.append)
    from finch_hub.plugins import builtin

    manager.register(builtin, name=BUILTIN)
    plugins.append(Plugin(name=BUILTIN, version=_version_of(BUILTIN)))

    order = [plugin.name for plugin in plugins]
    offers = {
        attribute: Offers(kind, _collect(manager, hook, expected, order, problems.append))
        for attribute, (kind, hook, expected) in _HOOKS.items()
    }
    for each in offers.values():
        problems.extend(errors.Problem(what=clash, where="plugins") for clash in each.clashes())
    return Catalog(**offers, plugins=tuple(plugins), problems=tuple(problems))


_HOOKS: dict[str, tuple[str, str, type[Descriptor]]] = {
    "presets": ("preset", "finch_presets", Preset),
    "strategies": ("strategy", "finch_strategies", Strategy),
    "resolvers": ("resolver", "finch_resolvers", Resolver),
    "dataset_formats": ("dataset format", "finch_dataset_formats", DatasetFormat),
    "base_sources": ("base source", "finch_base_sources", BaseSource),
    "export_formats": ("export format", "finch_export_formats", ExportFormat),
    "evaluators": ("evaluator", "finch_evaluators", Evaluator),
    "listeners": ("listener", "finch_listeners", Listener),
}


def _register_installed(manager: pluggy.PluginManager, report: _Report) -> list[Plugin]:
    found: list[Plugin] = []
    for point in sorted(importlib.metadata.entry_points(group=hooks.PROJECT), key=lambda point: point.name):
        name = _free_name(manager, point.dist.name if point.dist is not None else point.name)
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # whatever a stranger's module does, the others must load
            report(_problem(name, f"cannot be imported ({point.value})", error))
            continue
        if _register(manager, plugin, name, report):
            found.append(Plugin(name=name, version=point.dist.version if point.dist is not None else None))
    return found


def _free_name(manager: pluggy.PluginManager, wanted: str) -> str:
    """Return the name, numbered where a distribution announces several plugins or two objects are called alike."""
    numbered = (f"{wanted}#{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if not manager.has_plugin(name))


def _register(manager: pluggy.PluginManager, plugin: Any, name: str, report: _Report) -> bool:
    """Register a plugin; one with a hook of an unknown name or signature is refused whole."""
    known = [hook for _, hook, _ in _HOOKS.values()]
    unknown = [
        attribute
        for attribute in dir(plugin)
        if attribute not in known and manager.parse_hookimpl_opts(plugin, attribute) is not None
    ]
    if unknown:
        near = errors.near(unknown[0], known)
        fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        report(errors.Problem(where=f"plugin {name}", what=f"there is no hook {', '.join(unknown)}", fix=fix))
        return False
    try:
        manager.register(plugin, name=name)
    except (pluggy.PluginValidationError, ValueError) as error:
        if manager.has_plugin(name) and manager.get_plugin(name) is plugin:
            manager.unregister(plugin)  # pluggy keeps what it found to be invalid
        report(_problem(name, "cannot be registered", error))
        return False
    return True


def _collect(
    manager: pluggy.PluginManager, hook: str, expected: type[Descriptor], order: Sequence[str], report: _Report
) -> list[tuple[str, Any]]:
    """Call one hook plugin by plugin (calling it at once would let one that raises silence all) in the given order."""
    found: list[tuple[str, Any]] = []
    implementations = {each.plugin_name: each.function for each in getattr(manager.hook, hook).get_hookimpls()}
    for name in order:
        if name not in implementations:
            continue
        try:
            offered = list(implementations[name]())
        except (Exception, SystemExit) as error:  # as above
            report(_problem(name, f"{hook} failed", error))
            continue
        for descriptor in offered:
            if isinstance(descriptor, expected):
                found.append((name, descriptor))
            else:
                what = f"{hook} returned {type(descriptor).__name__}, not {expected.__name__}"
                report(errors.Problem(where=f"plugin {name}", what=what))
    return found


def _problem(plugin: str, what: str, error: BaseException) -> errors.Problem:
    return errors.Problem(where=f"plugin {plugin}", what=f"{what}: {type(error).__name__}: {error}")


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
