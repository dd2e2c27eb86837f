"""Catalog of everything that the built-in and the installed plugins offer, by name.

The built-in offers are there at once. Third-party plugins are loaded when something asks for a name that is not built
in, or for all offers of a kind. So commands that need none load none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from finch_hub import errors
from finch_hub.formats.installed_metadata import find_version
from finch_hub.plugins import descriptors
from finch_hub.plugins.descriptors import Descriptor
from finch_hub.plugins.loader import Loader, Plugin

if TYPE_CHECKING:
    from finch_hub.settings import Settings

D = TypeVar("D", bound=Descriptor)

BUILTIN = "finch-hub"
"""Name of the built-in plugin."""


class Offers(Mapping[str, D], Generic[D]):
    """Offers of one kind from all plugins by name: the built-in ones, then the others in the order of their plugins.

    A built-in name stays with the built-in offer. A name that several other plugins offer belongs to none of them. The
    other plugins are loaded when a name is not built in, or when all names are wanted.
    """

    def __init__(self, kind: str, hook: str, expected: type[D], builtin: Sequence[D], loader: Loader) -> None:
        self._kind, self._hook, self._expected, self._loader = kind, hook, expected, loader
        self._builtin = {descriptor.name: descriptor for descriptor in builtin}

    def __getitem__(self, name: str) -> D:
        if (descriptor := self._builtin.get(name)) is not None:
            return descriptor
        if (offer := self._others.get(name)) is not None:
            return offer[1]
        if name in self._conflicts:
            raise errors.PluginError(self._conflicts[name])
        missing = errors.NotFound(self._kind, name, [*self, *self._conflicts], lists_known=True)
        if not missing.near and (disabled := self._loader.describe_disabled()):
            raise errors.PluginError(f"{missing}; perhaps it is of a plugin that is disabled: {disabled}")
        raise missing

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self._builtin, self._others)

    def __len__(self) -> int:
        return len(self._builtin) + len(self._others)

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._others

    def plugin_of(self, name: str) -> str:
        """Return the plugin that offers a name; raises the errors of a lookup."""
        self[name]
        return BUILTIN if name in self._builtin else self._others[name][0].name

    @cached_property
    def _collected(self) -> list[tuple[Plugin, D]]:
        return self._loader.collect(self._hook, self._expected)

    @cached_property
    def _others(self) -> dict[str, tuple[Plugin, D]]:
        taken = {*self._builtin, *self._conflicts}
        return {offer.name: (plugin, offer) for plugin, offer in self._collected if offer.name not in taken}

    @cached_property
    def _conflicts(self) -> dict[str, str]:
        owners: dict[str, list[Plugin]] = {}
        for plugin, offer in self._collected:
            owners.setdefault(offer.name, []).append(plugin)
        conflicts: dict[str, str] = {}
        for name, plugins in owners.items():
            offered = " and ".join(dict.fromkeys(plugin.label for plugin in plugins))
            if name in self._builtin:
                what = f"{self._kind} {name!r} is built in, so that of {offered} is left out"
                self._loader.report(plugins[0], what, fix="its authors can choose another name")
            elif len({id(plugin) for plugin in plugins}) < len(plugins):
                conflicts[name] = f"{self._kind} {name!r} is offered twice by {offered}"
            elif len(plugins) > 1:
                fix = f"uninstall one of them, or disable it with FINCH_DISABLED_PLUGINS={plugins[0].name}"
                conflicts[name] = f"{self._kind} {name!r} is offered by {offered} ({fix})"
        for what in conflicts.values():
            self._loader.problems.append(errors.Problem(what=what, where="plugins"))
        return conflicts


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Offers of all plugins."""

    presets: Offers[descriptors.Preset]
    strategies: Offers[descriptors.Strategy]
    resolvers: Offers[descriptors.Resolver]
    dataset_formats: Offers[descriptors.DatasetFormat]
    base_sources: Offers[descriptors.BaseSource]
    export_formats: Offers[descriptors.ExportFormat]
    evaluators: Offers[descriptors.Evaluator]
    listeners: Offers[descriptors.Listener]
    loader: Loader = field(repr=False)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All plugins, with those that are disabled. The built-in one is the last."""
        self.load()
        return (*self.loader.plugins, Plugin(name=BUILTIN, version=find_version(BUILTIN), is_loaded=True))

    @property
    def problems(self) -> tuple[errors.Problem, ...]:
        """What keeps plugins, or some of their offers, from being used."""
        self.load()
        return tuple(self.loader.problems)

    def load(self) -> None:
        """Load all plugins, and call all their hooks."""
        for offers in self.all_offers():
            len(offers)

    def all_offers(self) -> tuple[Offers[Any], ...]:
        """Return the offers of every kind."""
        return tuple(getattr(self, attribute) for attribute in _HOOKS)

    def describe_disabled(self) -> str:
        """Return which plugins are disabled, and why; empty if none is, or if no plugin was needed so far."""
        return self.loader.describe_disabled()

    def base_source_of(self, source: str) -> descriptors.BaseSource:
        """Return the base source that accepts the text.

        A built-in source takes local files, and ids of the Hugging Face Hub with their owner. Other texts are offered
        to third-party sources, and then again to the built-in ones.

        Raises:
            NotFound: no base source accepts it.
            PluginError: sources of several plugins accept it, or none does and a plugin failed.
        """
        names = list(self.base_sources._builtin)
        builtin = next((self.base_sources[name] for name in names if self.base_sources[name].accepts(source)), None)
        if builtin is not None and "/" in source:
            return builtin
        accepting: list[descriptors.BaseSource] = []
        failures: list[str] = []
        for name, candidate in self.base_sources.items():
            if name in names:
                continue
            try:
                if candidate.accepts(source):
                    accepting.append(candidate)
            except errors.PluginError as error:
                failures.append(str(error))
        if len(accepting) > 1:
            sources = " and ".join(candidate.label for candidate in accepting)
            what = f"{sources} both take {errors.shorten(source)!r} (disable one of the plugins)"
            raise errors.PluginError(what)
        if accepting:
            return accepting[0]
        if builtin is not None:
            return builtin
        missing = errors.NotFound("folder, file or repository", source, fix=errors.BASE_FORMS)
        if reasons := "; ".join(filter(None, [*failures, self.describe_disabled()])):
            raise errors.PluginError(f"{missing}; a plugin that may know it does not work: {reasons}")
        raise missing


def load_catalog(
    settings: Settings | None = None, *, entry_points: bool = True, extra: Sequence[object] = (), retry: bool = False
) -> Catalog:
    """Return the offers of the built-in plugin, the installed plugins and the given plugin objects.

    A plugin that cannot be imported, raises or returns a wrong type is disabled and reported in `problems`. It disables
    nothing else. Neither do plugins that end the process or hang, if there are settings.

    Args:
        settings: settings that name disabled plugins, and the folder that keeps verdicts on new code. With None, each
            plugin is loaded in this process without a trial.
        entry_points: whether to load the installed plugins.
        extra: further plugin objects.
        retry: whether code that ended a process or hung is tried again.
    """
    from finch_hub.plugins import builtin  # late, since a child of most kinds needs no catalog

    loader = Loader(
        settings, known=[hook for hook, _ in _HOOKS.values()], entry_points=entry_points, extra=extra, retry=retry
    )
    offers = {
        attribute: Offers(expected.kind, hook, expected, getattr(builtin, hook, tuple)(), loader)
        for attribute, (hook, expected) in _HOOKS.items()
    }
    return Catalog(**offers, loader=loader)


_HOOKS: dict[str, tuple[str, type[Descriptor]]] = {
    "presets": ("finch_presets", descriptors.Preset),
    "strategies": ("finch_strategies", descriptors.Strategy),
    "resolvers": ("finch_resolvers", descriptors.Resolver),
    "dataset_formats": ("finch_dataset_formats", descriptors.DatasetFormat),
    "base_sources": ("finch_base_sources", descriptors.BaseSource),
    "export_formats": ("finch_export_formats", descriptors.ExportFormat),
    "evaluators": ("finch_evaluators", descriptors.Evaluator),
    "listeners": ("finch_listeners", descriptors.Listener),
}
