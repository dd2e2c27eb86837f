"""Catalog of everything that the built-in and the installed plugins offer, by name."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pluggy

from finch_hub import errors
from finch_hub.plugins import descriptors, hooks
from finch_hub.plugins.descriptors import Descriptor

D = TypeVar("D", bound=Descriptor)

BUILTIN = "finch-hub"
"""Name of the built-in plugin."""


class Offers(Mapping[str, D], Generic[D]):
    """Offers of one kind from all plugins by name, in the order in which they are matched.

    Lookup of an unknown name raises `NotFound` with similar names. Lookup of a name that several plugins offer raises
    `PluginError`; other names stay usable.

    Attributes:
        conflicts: message for each name that several plugins offer.
    """

    def __init__(self, kind: str, offered: Sequence[tuple[str, D]]) -> None:
        self._kind = kind
        self._owners: dict[str, list[str]] = {}
        for plugin, descriptor in offered:
            self._owners.setdefault(descriptor.name, []).append(plugin)
        self._unique = {d.name: d for _, d in offered if len(self._owners[d.name]) == 1}
        self.conflicts = {
            name: f"{kind} {name!r} is offered by {' and '.join(owners)} (uninstall one of them)"
            for name, owners in self._owners.items()
            if len(owners) > 1
        }

    def __getitem__(self, name: str) -> D:
        if name in self.conflicts:
            raise errors.PluginError(self.conflicts[name])
        if name not in self._unique:
            raise errors.NotFound(self._kind, name, self._owners, lists_known=True)
        return self._unique[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._unique)

    def __len__(self) -> int:
        return len(self._unique)

    def __contains__(self, name: object) -> bool:
        return name in self._unique

    def plugin_of(self, name: str) -> str:
        """Return the plugin that offers a name; raises the errors of a lookup."""
        self[name]
        return self._owners[name][0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """Loaded plugin; `version` is that of its distribution, or None for a plugin object."""

    name: str
    version: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Offers of all plugins, the loaded plugins, and the problems of the others."""

    presets: Offers[descriptors.Preset]
    strategies: Offers[descriptors.Strategy]
    resolvers: Offers[descriptors.Resolver]
    dataset_formats: Offers[descriptors.DatasetFormat]
    base_sources: Offers[descriptors.BaseSource]
    export_formats: Offers[descriptors.ExportFormat]
    evaluators: Offers[descriptors.Evaluator]
    listeners: Offers[descriptors.Listener]
    plugins: tuple[Plugin, ...]
    problems: tuple[errors.Problem, ...]

    def all_offers(self) -> tuple[Offers[Any], ...]:
        """Return the offers of every kind."""
        return tuple(getattr(self, attribute) for attribute in _HOOKS)

    def base_source_of(self, source: str) -> descriptors.BaseSource:
        """Return the first base source that accepts the text; third-party sources come first.

        Raises:
            NotFound: no base source accepts it.
        """
        for candidate in self.base_sources.values():
            if candidate.accepts(source):
                return candidate
        raise errors.NotFound("base source for", source)


def load_catalog(*, entry_points: bool = True, extra: Sequence[object] = ()) -> Catalog:
    """Collect the offers of the built-in plugin, the installed plugins and the given plugin objects.

    A plugin that cannot be imported, raises or returns a wrong type is omitted and reported in `problems`. It disables
    nothing else.

    Args:
        entry_points: whether to load the installed plugins.
        extra: further plugin objects.
    """
    loader = _Loader()
    # Third-party plugins come first, because the built-in formats and base sources match more generally.
    for plugin in extra:
        loader.add(plugin, getattr(plugin, "__name__", type(plugin).__name__))
    if entry_points:
        loader.add_installed()
    from finch_hub.plugins import builtin  # late, since a child of most kinds needs no catalog

    loader.add(builtin, BUILTIN, next((d.version for d in importlib.metadata.distributions(name=BUILTIN)), None))
    offers = {name: Offers(kind, loader.collect(hook, expected)) for name, (kind, hook, expected) in _HOOKS.items()}
    conflicts = [what for kind_offers in offers.values() for what in kind_offers.conflicts.values()]
    problems = (*loader.problems, *(errors.Problem(what=what, where="plugins") for what in conflicts))
    return Catalog(**offers, plugins=tuple(loader.plugins), problems=problems)


_HOOKS: dict[str, tuple[str, str, type[Descriptor]]] = {
    "presets": ("preset", "finch_presets", descriptors.Preset),
    "strategies": ("strategy", "finch_strategies", descriptors.Strategy),
    "resolvers": ("resolver", "finch_resolvers", descriptors.Resolver),
    "dataset_formats": ("dataset format", "finch_dataset_formats", descriptors.DatasetFormat),
    "base_sources": ("base source", "finch_base_sources", descriptors.BaseSource),
    "export_formats": ("export format", "finch_export_formats", descriptors.ExportFormat),
    "evaluators": ("evaluator", "finch_evaluators", descriptors.Evaluator),
    "listeners": ("listener", "finch_listeners", descriptors.Listener),
}


class _Loader:
    """Loaded plugins, and the problems of the others."""

    def __init__(self) -> None:
        self.plugins: list[Plugin] = []
        self.problems: list[errors.Problem] = []
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)

    def add_installed(self) -> None:
        """Import and add the plugins that entry points announce."""
        for point in sorted(importlib.metadata.entry_points(group=hooks.PROJECT), key=lambda point: point.name):
            name, version = (point.dist.name, point.dist.version) if point.dist is not None else (point.name, None)
            try:
                plugin = point.load()
            except (Exception, SystemExit) as error:  # a broken plugin must not stop the others
                self._report(name, f"cannot import {point.value}", error)
            else:
                self.add(plugin, name, version)

    def add(self, plugin: object, name: str, version: str | None = None) -> None:
        """Add a plugin; a hook with an unknown name or signature refuses the whole plugin.

        The name gets a number if a distribution announces several plugins, or two objects have the same name.
        """
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        name = next(free for free in itertools.chain([name], numbered) if not self._manager.has_plugin(free))
        known = [hook for _, hook, _ in _HOOKS.values()]
        marked = [a for a in dir(plugin) if self._manager.parse_hookimpl_opts(plugin, a) is not None]
        if unknown := [attribute for attribute in marked if attribute not in known]:
            near = errors.near(unknown[0], known)
            fix = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(known)}"
            what = f"there is no hook {', '.join(unknown)}"
            self.problems.append(errors.Problem(where=f"plugin {name}", what=what, fix=fix))
            return
        try:
            self._manager.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.get_plugin(name) is plugin:
                self._manager.unregister(plugin)  # pluggy keeps a plugin that it found to be invalid
            self._report(name, "cannot register its hooks", error)
        else:
            self.plugins.append(Plugin(name=name, version=version))

    def collect(self, hook: str, expected: type[Descriptor]) -> list[tuple[str, Any]]:
        """Call a hook of each plugin, one by one, so that an exception stops only that plugin's offers."""
        offers: list[tuple[str, Any]] = []
        functions = {impl.plugin_name: impl.function for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        for name in (plugin.name for plugin in self.plugins if plugin.name in functions):
            try:
                offered = list(functions[name]())
            except (Exception, SystemExit) as error:
                self._report(name, f"{hook} failed", error)
                continue
            offers += [(name, descriptor) for descriptor in offered if isinstance(descriptor, expected)]
            for wrong in (type(offer).__name__ for offer in offered if not isinstance(offer, expected)):
                what = f"{hook} returned {wrong}, not {expected.__name__}"
                self.problems.append(errors.Problem(where=f"plugin {name}", what=what))
        return offers

    def _report(self, plugin: str, what: str, error: BaseException) -> None:
        problem = errors.Problem(where=f"plugin {plugin}", what=f"{what}: {type(error).__name__}: {error}")
        self.problems.append(problem)
