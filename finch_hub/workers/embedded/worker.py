"""The home's own worker, started in the background when there is work.

A client only makes sure that a worker runs. A job whose wake-up it could not send is found by the worker at its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

import filelock
import psutil
from filelock import Timeout as Timeout  # raised by the lock below

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.workers.embedded import code_version, home

_STARTING = "worker.starting"
_STARTING_SECONDS = 15.0  # from a worker's start to its lock, on a busy machine


def ensure(settings: Settings, *, code: str | None = None) -> None:
    """Start the home's worker in the background unless one of this code runs; one of older code is replaced.

    Args:
        settings: whose home it is.
        code: what :func:`code_version.current` returned, for callers that ask often.

    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    running = read_record(settings)
    if running is not None:
        if running.get("code", code) == (code or code_version.current()):
            return
        _tell(running, signal.SIGTERM)  # it hands its job back and leaves; the new one waits for its lock
    starting = settings.home / _STARTING
    with contextlib.suppress(FileNotFoundError):
        if time.time() - starting.stat().st_mtime < _STARTING_SECONDS:
            return  # one is on its way to the lock
    starting.touch(mode=0o600)
    log = settings.home / "logs" / "worker.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    home.detach([sys.executable, "-m", "finch_hub.workers.worker"], settings.home, log, _as_environment(settings))


def stop(settings: Settings, *, wait: float = 60.0) -> bool:
    """Tell the home's worker to hand back its job and end; return whether there was one.

    Raises:
        Unavailable: it has not ended after so many seconds.

    """
    running = read_record(settings)
    if running is None:
        return False
    _tell(running, signal.SIGTERM)
    deadline = time.monotonic() + wait
    while read_record(settings) is not None:
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"the worker (process {running.get('pid', '?')}) has not ended after {wait:g} s")
        time.sleep(0.05)
    return True


def read_record(settings: Settings) -> dict[str, Any] | None:
    """Return what the home's worker wrote about itself (`pid`, `started`, `code`), None if none runs."""
    lock = life_lock(settings)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        deadline = time.monotonic() + 2.0
        while True:
            with contextlib.suppress(OSError, ValueError):
                data: dict[str, Any] = json.loads((settings.home / "worker.json").read_text(encoding="utf-8"))
                if psutil.pid_exists(data["pid"]):
                    return data
            if time.monotonic() > deadline:  # it holds the lock, but has not yet said who it is
                return {}
            time.sleep(0.02)
    lock.release()
    return None


def life_lock(settings: Settings) -> filelock.BaseFileLock:
    """Return the lock that the home's worker holds for life."""
    return filelock.FileLock(settings.home / "worker.lock", mode=0o600)


def announce(settings: Settings) -> None:
    """Write down who the home's worker is; called by it, once it holds the lock."""
    started = psutil.Process().create_time()
    _write_down(settings, {"pid": os.getpid(), "started": started, "code": code_version.current()})


def _write_down(settings: Settings, data: dict[str, Any]) -> None:
    target = settings.home / "worker.json"
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(target)
    (settings.home / _STARTING).unlink(missing_ok=True)


def _tell(worker: dict[str, Any], number: int) -> None:
    with contextlib.suppress(psutil.Error, KeyError):
        process = psutil.Process(worker["pid"])
        if abs(process.create_time() - worker["started"]) < 1:  # a process id can be somebody else's by now
            process.send_signal(number)


def _as_environment(settings: Settings) -> dict[str, str]:
    given = settings.model_dump(mode="python", exclude_none=True)
    plain = {name: getattr(value, "get_secret_value", lambda value=value: value)() for name, value in given.items()}
    return {f"FINCH_{name.upper()}": str(value) for name, value in plain.items()}
