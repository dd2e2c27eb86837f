"""The home's own worker, which clients start in the background when they submit jobs.

A worker that starts looks for jobs, so it needs no message for those that were submitted before.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import filelock
import psutil

from finch_hub import errors
from finch_hub.formats.atomic_writes import write_private
from finch_hub.settings import Settings
from finch_hub.specs.value import JsonObject
from finch_hub.workers.embedded import broker, code_version, home
from finch_hub.workers.logs.reader import read_line
from finch_hub.workers.supervision import device_locks

_STARTING = "worker.starting"
_ENDING = "worker.ending"
_STARTING_SECONDS = 15.0  # that a worker may take to get ready on a busy machine
_LONGEST_PAUSE_SECONDS = 300.0  # between two starts that fail
_REASON_BYTES = 4096  # of the log's end


def ensure(settings: Settings, *, code: str | None = None) -> None:
    """Start the home's worker in the background, unless one with this code runs. Replace one with other code.

    None is started beside a worker that a person started in this home, since that one has the devices.

    Callers that ask often pass `code`, the result of :func:`code_version.current`.

    Raises:
        Unavailable: the worker could not start its broker, since no server is installed.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    running = read_record(settings)
    if running is not None:
        if running.get("code", code) == (code or code_version.current()):
            return
        _request_end(running, settings)  # it hands its jobs back and ends, and the new worker waits for its lock
    if device_locks.find_owner(settings) is not None:
        (settings.home / _STARTING).unlink(missing_ok=True)
        return
    failures = 0
    if (age := _measure_start(settings)) is not None:
        failures = _read_start(settings).get("failures", 0) + 1
        # A worker that fails at its start, as with a broken library, is started less and less often.
        if age < min(_LONGEST_PAUSE_SECONDS, _STARTING_SECONDS * 2 ** (failures - 1)):
            return
    if settings.broker_url is None:
        broker.find_server()  # here, because clients do not see the log of the worker
    log = _log_of(settings)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    start = {"failures": failures, "reason": find_failure(settings), "log": log.stat().st_size if log.exists() else 0}
    write_private(settings.home / _STARTING, json.dumps(start))
    home.detach([sys.executable, "-m", "finch_hub.workers"], settings.home, log, _as_environment(settings))


def stop(settings: Settings, *, wait: float = 60.0) -> bool:
    """Let the home's worker hand its jobs back and end, with its broker. Return whether one ran.

    Raises:
        Unavailable: the worker did not end within `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while (running := read_record(settings)) is None and _is_starting(settings):
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"the worker that was just started did not get ready within {wait:g} s")
        time.sleep(0.05)  # else it would run after this has returned
    if running is None:
        (settings.home / _STARTING).unlink(missing_ok=True)  # of a start that failed; the next one needs no pause
        if settings.broker_url is None and home.exists(settings):
            broker.stop(settings, worker="")  # left by a worker that was killed
        return False
    _request_end(running, settings)
    while read_record(settings) is not None:
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"the worker (process {running.get('pid', '?')}) did not end within {wait:g} s")
        time.sleep(0.05)
    return True


def read_record(settings: Settings) -> JsonObject | None:
    """Return the record of the running worker (`pid`, `started`, `code`), None if no worker runs.

    The record is empty if the worker has not written it yet.
    """
    lock = home.lock(settings, "worker")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        deadline = time.monotonic() + 2.0
        while True:
            with contextlib.suppress(OSError, ValueError):
                data: JsonObject = json.loads((settings.home / "worker.json").read_text(encoding="utf-8"))
                if psutil.pid_exists(data["pid"]):
                    return data
            if time.monotonic() > deadline:
                return {}
            time.sleep(0.02)
    lock.release()
    return None


def write_record(settings: Settings) -> None:
    """Write the record of this process, which is the home's worker and holds its lock."""
    record = {"pid": os.getpid(), "started": psutil.Process().create_time(), "code": code_version.current()}
    target = settings.home / "worker.json"
    temporary = target.with_suffix(f".{os.getpid()}")
    write_private(temporary, json.dumps(record))
    temporary.replace(target)


def note_ready(settings: Settings) -> None:
    """Note that this process, the home's worker, runs jobs now."""
    (settings.home / _STARTING).unlink(missing_ok=True)


def find_failure(settings: Settings) -> str | None:
    """Return why the home's worker could not start the last time, None if it could, or if that is not known yet."""
    if (owner := device_locks.find_owner(settings)) is not None:
        is_of_other = owner.work != settings.work.name
        return f"{owner} has the devices of this home, and serves another database (stop it)" if is_of_other else None
    age = _measure_start(settings)
    if age is None or read_record(settings) is not None:
        return None
    start = _read_start(settings)
    if age < _STARTING_SECONDS:  # it is starting again
        return start.get("reason")
    log = _log_of(settings)
    try:
        with log.open("rb") as lines:
            size = lines.seek(0, os.SEEK_END)
            begin = start.get("log", 0)
            lines.seek(max(begin if begin <= size else 0, size - _REASON_BYTES))  # the log may have been renewed
            written = lines.read().decode(errors="replace").strip()
    except OSError:
        written = ""
    return f"{_find_reason(written)} (see {log})"


def _find_reason(written: str) -> str:
    """Return the error of the last line, which is of the log, or of a traceback from before the log was set up."""
    if not written:
        return "it ended without a word"
    last = written.splitlines()[-1]
    fields = read_line(last) or {}
    return str(fields.get("error") or fields.get("exception", last)).splitlines()[-1]


def _measure_start(settings: Settings) -> float | None:
    """Return the seconds since a worker was started that has not been ready yet, None if there is none."""
    try:
        return abs(time.time() - (settings.home / _STARTING).stat().st_mtime)  # the clock may have been set back
    except FileNotFoundError:
        return None


def _is_starting(settings: Settings) -> bool:
    age = _measure_start(settings)
    return age is not None and age < _STARTING_SECONDS


def _read_start(settings: Settings) -> JsonObject:
    with contextlib.suppress(OSError, ValueError):
        start = json.loads((settings.home / _STARTING).read_text(encoding="utf-8"))
        if isinstance(start, dict):
            return start
    return {}  # as an earlier version wrote it


def _log_of(settings: Settings) -> Path:
    return settings.home / "logs" / "worker.log"


def _request_end(worker: JsonObject, settings: Settings) -> None:
    """Send SIGTERM to a worker, once whatever many clients request: at the second one it ends without waiting."""
    requested = settings.home / _ENDING
    with contextlib.suppress(psutil.Error, KeyError), home.lock(settings, "end"):
        identity = f"{worker['pid']} {worker['started']}"
        process = psutil.Process(worker["pid"])
        is_worker = abs(process.create_time() - worker["started"]) < 1  # else another process has got its id
        if is_worker and not (requested.exists() and requested.read_text(encoding="utf-8") == identity):
            write_private(requested, identity)
            process.terminate()


def _as_environment(settings: Settings) -> dict[str, str]:
    fields = settings.model_dump(mode="python", exclude_none=True)
    plain = {name: getattr(value, "get_secret_value", lambda value=value: value)() for name, value in fields.items()}
    return {f"FINCH_{name.upper()}": str(value) for name, value in plain.items()}
