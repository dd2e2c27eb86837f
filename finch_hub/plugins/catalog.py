"""Catalog of everything that the built-in and the installed plugins offer, by name."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pluggy

from finch_hub import errors
from finch_hub.plugins import builtin, descriptors, hooks
from finch_hub.plugins.descriptors import Descriptor

D = TypeVar("D", bound=Descriptor)
_Report = Callable[[errors.Problem], None]

BUILTIN = "finch-hub"
"""Name of the built-in plugin."""


class Offers(Mapping[str, D], Generic[D]):
    """Offers of one kind from all plugins by name, in the order in which they are matched.

    Lookup of an unknown name raises `NotFound` with similar names. Lookup of a name that two plugins offer raises
    `PluginError` with both plugins; other names stay usable.
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
            raise errors.PluginError(self._describe_conflict(name))
        return descriptor

    def __iter__(self) -> Iterator[str]:
        return (name for name, offers in self._by_name.items() if len(offers) == 1)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return len(self._by_name.get(name, ())) == 1 if isinstance(name, str) else False

    def plugin_of(self, name: str) -> str:
        """Return the plugin that offers a name; raises the errors of a lookup."""
        self[name]
        return self._by_name[name][0][0]

    def name_conflicts(self) -> tuple[str, ...]:
        """Return a message for each name that several plugins offer."""
        return tuple(self._describe_conflict(name) for name, offers in self._by_name.items() if len(offers) > 1)

    def _describe_conflict(self, name: str) -> str:
        owners = " and ".join(plugin for plugin, _ in self._by_name[name])
        return f"{self._kind} {name!r} is offered by {owners} (uninstall one of them)"


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
    problems: list[errors.Problem] = []
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    plugins: list[Plugin] = []
    # Third-party plugins come first, because the built-in formats and base sources match more generally.
    for plugin in extra:
        name = _free_name(manager, getattr(plugin, "__name__", type(plugin).__name__))
        if _register(manager, plugin, name, problems.append):
            plugins.append(Plugin(name=name))
    if entry_points:
        plugins += _register_installed(manager, problems.append)
    manager.register(builtin, name=BUILTIN)
    plugins.append(Plugin(name=BUILTIN, version=_version_of(BUILTIN)))

    order = [plugin.name for plugin in plugins]
    offers = {
        attribute: Offers(kind, _collect(manager, hook, expected, order, problems.append))
        for attribute, (kind, hook, expected) in _HOOKS.items()
    }
    for kind_offers in offers.values():
        problems.extend(errors.Problem(what=what, where="plugins") for what in kind_offers.name_conflicts())
    return Catalog(**offers, plugins=tuple(plugins), problems=tuple(problems))


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


def _register_installed(manager: pluggy.PluginManager, report: _Report) -> list[Plugin]:
    plugins: list[Plugin] = []
    for point in sorted(importlib.metadata.entry_points(group=hooks.PROJECT), key=lambda point: point.name):
        name = _free_name(manager, point.dist.name if point.dist is not None else point.name)
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # a broken plugin must not stop the others
            report(_problem(name, f"cannot import {point.value}", error))
            continue
        if _register(manager, plugin, name, report):
            plugins.append(Plugin(name=name, version=point.dist.version if point.dist is not None else None))
    return plugins


def _free_name(manager: pluggy.PluginManager, wanted: str) -> str:
    """Return the name, with a number if another plugin of a distribution or another object has it."""
    numbered = (f"{wanted}#{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if not manager.has_plugin(name))


def _register(manager: pluggy.PluginManager, plugin: Any, name: str, report: _Report) -> bool:
    """Register a plugin; a hook with an unknown name or signature refuses the whole plugin."""
    known = [hook for _, hook, _ in _HOOKS.values()]
    unknown = [
        attribute
        for attribute in dir(plugin)
        if attribute not in known and manager.parse_hookimpl_opts(plugin, attribute) is not None
    ]
    if unknown:
        near = errors.near(unknown[0], known)
        fix = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(known)}"
        report(errors.Problem(where=f"plugin {name}", what=f"there is no hook {', '.join(unknown)}", fix=fix))
        return False
    try:
        manager.register(plugin, name=name)
    except (pluggy.PluginValidationError, ValueError) as error:
        if manager.has_plugin(name) and manager.get_plugin(name) is plugin:
            manager.unregister(plugin)  # pluggy keeps a plugin that it found to be invalid
        report(_problem(name, "cannot register its hooks", error))
        return False
    return True


def _collect(
    manager: pluggy.PluginManager, hook: str, expected: type[Descriptor], order: Sequence[str], report: _Report
) -> list[tuple[str, Any]]:
    """Call a hook of each plugin in order, one by one, so that an exception stops only that plugin's offers."""
    offers: list[tuple[str, Any]] = []
    implementations = {impl.plugin_name: impl.function for impl in getattr(manager.hook, hook).get_hookimpls()}
    for name in order:
        if name not in implementations:
            continue
        try:
            offered = list(implementations[name]())
        except (Exception, SystemExit) as error:
            report(_problem(name, f"{hook} failed", error))
            continue
        for descriptor in offered:
            if isinstance(descriptor, expected):
                offers.append((name, descriptor))
            else:
                what = f"{hook} returned {type(descriptor).__name__}, not {expected.__name__}"
                report(errors.Problem(where=f"plugin {name}", what=what))
    return offers


def _problem(plugin: str, what: str, error: BaseException) -> errors.Problem:
    return errors.Problem(where=f"plugin {plugin}", what=f"{what}: {type(error).__name__}: {error}")


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
