"""Loader of third-party plugins: imports them, calls their hooks, and keeps what is wrong with them."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from finch_hub import errors
from finch_hub.plugins import first_load, foreign_code, hooks, installed
from finch_hub.plugins.descriptors import Descriptor
from finch_hub.plugins.first_load import SlowPluginWarning
from finch_hub.texts.visible_text import to_line

if TYPE_CHECKING:
    from finch_hub.settings import Settings

D = TypeVar("D", bound=Descriptor)
T = TypeVar("T")

SLOW_SECONDS = 1.0
"""Time for the import of a plugin, or for one of its hooks, from which it is reported."""
_MOST_OFFERS = 1_000  # of one hook of a plugin


@dataclass(kw_only=True, slots=True, eq=False)
class Plugin:
    """Plugin of the catalog.

    Attributes:
        version: version of its distribution, None for a plugin object.
        seconds: time that its import and its hooks have taken.
        is_loaded: whether its code was imported into this process.
        disabled: why the plugin, or one of its hooks, offers nothing.
    """

    name: str
    version: str | None = None
    seconds: float = 0.0
    is_loaded: bool = False
    disabled: str | None = None

    @property
    def label(self) -> str:
        """Name and version, as errors name it."""
        return f"plugin {self.name}" + (f" {self.version}" if self.version else "")


class Loader:
    """Third-party plugins, which are imported when the first hook is called.

    Args:
        known: names of the hooks.

    Attributes:
        plugins: all plugins, with the disabled ones.
        problems: what keeps plugins, or some of their offers, from being used.
    """

    def __init__(
        self,
        settings: Settings | None,
        *,
        known: Sequence[str],
        entry_points: bool,
        extra: Sequence[object],
        retry: bool,
    ) -> None:
        self._settings, self._known, self._retry = settings, known, retry
        self._entry_points, self._extra = entry_points, extra
        self._loading = threading.RLock()
        self._collected: dict[str, list[tuple[Plugin, Any]]] = {}
        self.plugins: list[Plugin] = []
        self.problems: list[errors.Problem] = []

    @cached_property
    def _hooks(self) -> dict[str, list[tuple[Plugin, Callable[[], Any]]]]:
        """Functions of the plugins by the names of their hooks."""
        found: dict[str, list[tuple[Plugin, Callable[[], Any]]]] = {}
        for plugin in self._extra:
            name = str(getattr(plugin, "__name__", type(plugin).__name__))
            self._add(Plugin(name=name), functools.partial(_return, plugin), found)
        if self._entry_points:
            self._add_installed(found)
        return found

    def collect(self, hook: str, expected: type[D]) -> list[tuple[Plugin, D]]:
        """Call a hook of each plugin, one by one, so that an exception stops only that plugin's offers."""
        with self._loading:
            if hook in self._collected:
                return self._collected[hook]
            offers: list[tuple[Plugin, D]] = []
            for plugin, function in self._hooks.get(hook, ()):
                offered = self._run(plugin, f"{hook} failed", hook, functools.partial(_list_offers, function))
                for offer in offered or ():
                    try:
                        with foreign_code.blame("it"):
                            offers.append((plugin, expected.of_plugin(plugin.label, offer)))
                    except errors.FinchError as error:
                        self.report(plugin, f"{hook} returned an offer that cannot be used: {error}")
            self._collected[hook] = offers
            return offers

    def report(self, plugin: Plugin, what: str, *, fix: str = "") -> None:
        """Add a problem of a plugin."""
        self.problems.append(errors.Problem(where=plugin.label, what=what, fix=fix))

    def describe_disabled(self) -> str:
        """Return which plugins are disabled, and why; empty if none is, or if none was needed so far."""
        disabled = [plugin for plugin in self.plugins if plugin.disabled is not None]
        return "; ".join(f"{plugin.label}: {plugin.disabled}" for plugin in disabled)

    def _add_installed(self, found: dict[str, list[tuple[Plugin, Callable[[], Any]]]]) -> None:
        plugins, problems = installed.find_installed()
        self.problems += problems
        for distribution in plugins:
            name, version = distribution.name, distribution.version
            if self._settings is not None:
                if name in self._settings.disabled_plugin_names:
                    why = "it is disabled by FINCH_DISABLED_PLUGINS"
                    self._disable(Plugin(name=name, version=version), why, is_problem=False)
                    continue
                trouble = first_load.find_trouble(distribution, cache=self._settings.cache, retry=self._retry)
                if trouble is not None:
                    why = f"{trouble}, and is tried again by `finch-hub plugins list`"
                    self._disable(Plugin(name=name, version=version), why)
                    continue
            for point in distribution.points:
                self._add(Plugin(name=name, version=version), point.load, found)

    def _add(
        self, plugin: Plugin, load: Callable[[], object], found: dict[str, list[tuple[Plugin, Callable[[], Any]]]]
    ) -> None:
        """Import a plugin and find its hooks. A hook with an unknown name or signature refuses the whole plugin.

        The name gets a number if a distribution announces several plugins, or two objects have the same name.
        """
        taken = {other.name for other in self.plugins}
        numbered = (f"{plugin.name}#{number}" for number in itertools.count(2))
        plugin.name = next(free for free in itertools.chain([plugin.name], numbered) if free not in taken)
        functions = self._run(plugin, "cannot be imported", "its import", lambda: self._find_hooks(load()))
        if plugin not in self.plugins:
            self.plugins.append(plugin)
        plugin.is_loaded = functions is not None
        for hook, function in (functions or {}).items():
            found.setdefault(hook, []).append((plugin, function))

    def _find_hooks(self, plugin: object) -> dict[str, Callable[[], Any]]:
        manager = pluggy.PluginManager(hooks.PROJECT)
        manager.add_hookspecs(hooks)
        marked = [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]
        if unknown := [name for name in marked if name not in self._known]:
            near = errors.near(unknown[0], self._known)
            fix = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(self._known)}"
            raise errors.PluginError(f"there is no hook {', '.join(unknown)} ({fix})")
        manager.register(plugin)
        found = {name: getattr(manager.hook, name).get_hookimpls() for name in self._known}
        return {name: implementations[0].function for name, implementations in found.items() if implementations}

    def _run(self, plugin: Plugin, failing: str, doing: str, call: Callable[[], T]) -> T | None:
        """Run code of a plugin. If it raises, the plugin is disabled."""
        foreign_code.begin()
        began = time.perf_counter()
        try:
            with foreign_code.keep_process():
                return call()
        except errors.PluginError as error:
            self._disable(plugin, str(error))
        except BaseException as error:  # SystemExit too: a broken plugin must not stop the others
            if isinstance(error, KeyboardInterrupt):
                raise
            self._disable(plugin, f"{failing}: {foreign_code.describe(error)}")
        finally:
            seconds = time.perf_counter() - began
            plugin.seconds += seconds
            if seconds >= SLOW_SECONDS:
                what = f"{plugin.label} is slow: {doing} took {seconds:.1f} s"
                text = f"{what} (tell its authors; FINCH_DISABLED_PLUGINS={plugin.name} leaves it out)"
                warnings.warn(text, SlowPluginWarning, stacklevel=2)
        return None

    def _disable(self, plugin: Plugin, why: str, *, is_problem: bool = True) -> None:
        plugin.disabled = to_line(why)
        if plugin not in self.plugins:
            self.plugins.append(plugin)
        if is_problem:
            self.report(plugin, why)


def _return(plugin: object) -> object:
    return plugin


def _list_offers(hook: Callable[[], Any]) -> list[Any]:
    offered = hook()
    if isinstance(offered, str | bytes | dict | Descriptor):
        raise TypeError(f"it returned {type(offered).__name__}, not a list of offers")
    offers = list(itertools.islice(offered, _MOST_OFFERS + 1))
    if len(offers) > _MOST_OFFERS:
        raise ValueError(f"it offers more than {_MOST_OFFERS:,} things")
    return offers
