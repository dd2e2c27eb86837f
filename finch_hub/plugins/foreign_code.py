"""Third-party code in this process: what its errors become, and what it cannot change while it is loaded."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.plugins import command_output
from finch_hub.texts.visible_text import to_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)
_MAX_TEXT = 500  # characters of an error
_has_run = False


def begin() -> None:
    """Note that third-party code runs in this process from now on, and keep standard output for results."""
    global _has_run
    _has_run = True
    command_output.divert()


def may_spoil_results() -> bool:
    """Return whether third-party code has run beside torch, so that it may have changed what others compute here."""
    return _has_run and "torch" in sys.modules


def describe(error: BaseException) -> str:
    """Describe an error of third-party code on one line, whatever its text is."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # the error is of a class of the plugin
        text = "its text cannot be read"
    text = to_line(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…")
    name = to_line(type(error).__name__)
    return f"{name}: {text}" if text else name


def is_foreign(error: BaseException) -> bool:
    """Return whether an exception is not one by which this package ends or stops what runs."""
    return not (_is_own(type(error)) or isinstance(error, KeyboardInterrupt))


def _is_own(kind: type[BaseException]) -> bool:
    """Return whether a class is where it says that it is, in this package."""
    name: object = kind.__module__  # whatever a plugin wrote there
    is_here = isinstance(name, str) and name.partition(".")[0] == "finch_hub"
    return is_here and getattr(sys.modules.get(str(name)), kind.__name__, None) is kind


@contextlib.contextmanager
def blame(owner: str) -> Iterator[None]:
    """Turn whatever the block raises into a `PluginError` that names the owner of the code.

    Errors of Finch Hub pass, since plugins raise them on purpose, and so does an interrupt from the keyboard.
    """
    try:
        yield
    except BaseException as error:
        if not is_foreign(error):
            raise
        raise errors.PluginError(f"{owner} failed: {describe(error)}") from error


def guard(function: Callable[..., Any], owner: str, *, is_quick: bool = False) -> Callable[..., Any]:
    """Return a function of a plugin whose errors name their owner, and after which the process is as it was.

    A copy of the process that the function forks ends with it.

    Args:
        is_quick: whether it is called so often that only forked copies are looked for.
    """

    def guarded(*args: Any, **options: Any) -> Any:
        begin()
        process = os.getpid()
        with blame(owner):
            try:
                with contextlib.nullcontext() if is_quick else keep_process():
                    return function(*args, **options)
            finally:
                if os.getpid() != process:
                    os._exit(1)

    guarded.__wrapped__ = function  # type: ignore[attr-defined]  # `inspect.signature` reads it
    return guarded


@contextlib.contextmanager
def keep_process(*, keeps_input: bool = False) -> Iterator[None]:
    """Put back what a plugin changes of the process while it is loaded, and give it an empty standard input.

    These are the working directory, the variables that were set, the order of the import path, random numbers, signal
    handlers, blocked signals, the alarm, the mask of permissions, limits that it lowers, standard streams, the root
    logger and warning filters. Variables and paths that it adds stay. A copy of the process that the plugin forked ends
    here. Other threads than the main thread put nothing back, since it may be what the main thread has changed.

    Args:
        keeps_input: whether it may read standard input.
    """
    process = os.getpid()
    is_main = threading.current_thread() is threading.main_thread()
    try:
        with _keep_state(keeps_input=keeps_input) if is_main else contextlib.nullcontext():
            yield
    finally:
        if os.getpid() != process:
            os._exit(1)


@contextlib.contextmanager
def _keep_state(*, keeps_input: bool) -> Iterator[None]:
    mask = os.umask(0o077)
    os.umask(mask)
    folder = _find_folder()
    environment, path, state = dict(os.environ), list(sys.path), random.getstate()
    streams = sys.stdin, sys.stdout, sys.stderr, sys.excepthook
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    actions = {number: signal.getsignal(number) for number in _SIGNALS}
    began, (alarm, interval) = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)
    recursion, timeout, limits = sys.getrecursionlimit(), socket.getdefaulttimeout(), read_limits()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Path(os.devnull).open(encoding="utf-8") as nothing, warnings.catch_warnings():
        if not keeps_input:
            sys.stdin = nothing
        try:
            yield
        finally:
            left = max(alarm - (time.monotonic() - began), 0.001) if alarm else 0.0
            signal.setitimer(signal.ITIMER_REAL, left, interval)
            os.umask(mask)
            sys.stdin, sys.stdout, sys.stderr, sys.excepthook = streams
            sys.setrecursionlimit(recursion)
            socket.setdefaulttimeout(timeout)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for name in find_lowered(limits):
                number = getattr(resource, name)
                hard = resource.getrlimit(number)[1]
                resource.setrlimit(number, (min(limits[name], hard, key=_to_number), hard))
            random.setstate(state)
            sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
            os.environ.update(environment)
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.disable(disabled)
            for number, action in actions.items():
                if action is not None and signal.getsignal(number) is not action:
                    signal.signal(number, action)
            if folder is not None and _find_folder() != folder:
                os.chdir(folder)


def read_limits() -> dict[str, int]:
    """Return the limits that the system puts on this process, by the names of :mod:`resource`."""
    return {
        name: resource.getrlimit(getattr(resource, name))[0] for name in dir(resource) if name.startswith("RLIMIT_")
    }


def find_lowered(limits: Mapping[str, int]) -> list[str]:
    """Return the names of the limits that are lower now."""
    return [name for name, limit in read_limits().items() if _to_number(limit) < _to_number(limits[name])]


def _to_number(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _find_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - only compared
    except OSError:
        return None
