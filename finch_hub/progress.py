"""Progress of work whose size users decide, told to whoever listens.

Loops are wrapped in :func:`track`, and callers listen with :func:`listen`. So no function between the two has to pass a
callback on, and a supervisor can tell slow work from a hang.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# Seconds between two tellings. Long work tells less often, but a watcher never waits for long.
_LEAST_SECONDS, _MOST_SECONDS, _SHARE = 2.0, 30.0, 0.02


class Advance(NamedTuple):
    """How far some work is.

    Attributes:
        work: what is done, such as "tokenizing".
        done: number of finished parts.
        total: number of all parts; None if it is unknown.
        seconds_left: estimate of the remaining time; None if it is unknown.
    """

    work: str
    done: int
    total: int | None
    seconds_left: float | None


def is_terminal() -> bool:
    """Tell whether standard error is a terminal. A process may have none."""
    return sys.stderr is not None and sys.stderr.isatty()


def is_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook. IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython() if ipython is not None else None, "kernel", None) is not None


Listener = Callable[[Advance], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)

Show = Callable[[Any], None]
"""Receiver of the events of a training that runs in this process."""


class Display(NamedTuple):
    """What draws. The package sets it, since it lies above the engine, which calls it.

    Attributes:
        open_view: opens what shows the events of a training; its argument is that of `Hub(progress=…)`.
        show_advance: shows how far some work is.
    """

    open_view: Callable[[bool | None], contextlib.AbstractContextManager[Show]]
    show_advance: Listener


_display: Display | None = None
_wishes: weakref.WeakKeyDictionary[object, bool | None] = weakref.WeakKeyDictionary()  # of the open hubs, newest last
_wishes_lock = threading.Lock()  # threads make hubs while others look for a wish


def use_display(display: Display) -> None:
    """Show the work of this process with this display."""
    global _display
    _display = display


def begin_showing(owner: object, shows: bool | None) -> None:
    """Show the work of this process as its newest owner wishes, until `stop_showing`.

    Args:
        shows: whether to show it; None shows it on a terminal and in a notebook.
    """
    with _wishes_lock:
        _wishes[owner] = shows


def stop_showing(owner: object) -> None:
    """Forget the wish of an owner, so that the one before it holds again."""
    with _wishes_lock:
        _wishes.pop(owner, None)


def open_view(shows: bool | None = None) -> contextlib.AbstractContextManager[Show]:
    """Open what shows the events of a training to the user of this process.

    Args:
        shows: whether to show them; None does as the newest owner wishes.
    """
    if _display is None:
        return contextlib.nullcontext(lambda event: None)
    return _display.open_view(_find_wish() if shows is None else shows)


def _find_wish() -> bool | None:
    with _wishes_lock:
        return next(reversed(list(_wishes.values())), None)


def _find_listener() -> Listener | None:
    """Return the listener of this thread, or else the display if some owner wishes it."""
    if (listener := _listener.get()) is not None or _display is None or not _wishes:
        return listener
    wish = _find_wish()
    return _display.show_advance if wish or (wish is None and (is_terminal() or is_notebook())) else None


@contextlib.contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call a listener with the advances of all work that this thread does in the `with` block.

    An exception of the listener ends the work.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell_at_once() -> None:
    """Tell every advance of this process, since another process chooses among them."""
    global _LEAST_SECONDS, _SHARE
    _LEAST_SECONDS = _SHARE = 0.0


def track(items: Iterable[T], work: str, *, total: int | None = None) -> Iterator[T]:
    """Yield the items, and tell every few seconds how many are done.

    Args:
        total: number of the items; None asks the items, if they know it.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    meter = Meter(work, total)
    for item in items:
        yield item
        meter.add()


class Meter:
    """Meter of one work, which tells its advance every few seconds. Work that takes less tells nothing.

    Args:
        work: what is done.
        total: number of all parts; None if it is unknown.
        size: parts that are told as one, such as the bytes of a megabyte.
    """

    def __init__(self, work: str, total: int | None = None, *, size: int = 1) -> None:
        self.total = total
        self._work, self._size, self._done = work, size, 0
        self._listener = _find_listener()  # here, since other threads may count
        self._began = self._told = time.monotonic()

    def add(self, parts: int = 1) -> None:
        """Count finished parts."""
        self._done += parts
        now = time.monotonic()
        elapsed = now - self._began
        if now - self._told < min(_MOST_SECONDS, max(_LEAST_SECONDS, _SHARE * elapsed)):
            return
        self._told = now
        if self._listener is not None:
            left = elapsed / self._done * max(0, self.total - self._done) if self.total and self._done else None
            total = self.total // self._size if self.total else None
            self._listener(Advance(self._work, self._done // self._size, total, left))
