"""Poolers of connections in transaction mode: PgBouncer where it is installed, and a small one everywhere."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

Message = tuple[bytes, bytes]

_SSL, _GSS = 80877103, 80877104  # requests for encryption, sent before the startup message
_VERSION = 196608


@contextlib.contextmanager
def pgbouncer(server: Path, *, pool_size: int) -> Iterator[int]:
    """Run PgBouncer before the PostgreSQL whose socket is in a folder, and give its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    config = server / f"pgbouncer-{port}.ini"  # where the user of the server can read it
    config.write_text(
        f"[databases]\n* = host={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {pool_size}\n"
    )
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    with subprocess.Popen([program, str(config)], user=user, stderr=subprocess.DEVNULL) as process:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        try:
            yield port
        finally:
            process.kill()


@contextlib.contextmanager
def transaction_pooler(server: Path, *, pool_size: int) -> Iterator[int]:
    """Run a pooler that gives each transaction the session that rested longest, and give its port."""
    with contextlib.closing(_Pooler(server / ".s.PGSQL.5432", pool_size)) as pooler:
        yield pooler.port


POOLERS: dict[str, Callable[..., contextlib.AbstractContextManager[int]]] = {"small": transaction_pooler}
if shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
    POOLERS["pgbouncer"] = pgbouncer


class _Pooler:
    def __init__(self, server: Path, pool_size: int) -> None:
        self._server, self._pool_size = server, pool_size
        self._sessions: dict[bytes, queue.Queue[_Wire]] = {}
        self._wires: list[_Wire] = []
        self._greeting: list[Message] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._serving: list[Thread] = []
        self._accepting = Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a client, which closing alone does not
        self._accepting.join()
        self._listener.close()
        while any(thread.is_alive() for thread in self._serving):  # one that begins may open further sessions
            for wire in self._wires[:]:
                wire.shut_down()
            time.sleep(0.01)
        for wire in self._wires:
            wire.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire = _Wire(self._listener.accept()[0])
                self._wires.append(wire)
                self._serving.append(Thread(target=self._serve, args=(wire,), daemon=True))
                self._serving[-1].start()

    def _serve(self, client: _Wire) -> None:
        with contextlib.suppress(OSError, EOFError):
            while (startup := client.read_startup())[0] in (_SSL, _GSS):
                client.send_bytes(b"N")
            words = startup[1].split(b"\0")
            parameters = dict(zip(words[::2], words[1::2], strict=False))
            if b"options" in parameters:
                client.send((b"E", b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"))
                return client.close()
            sessions = self._open_sessions(parameters[b"database"])
            for message in self._greeting:
                client.send(message)
            self._relay(client, sessions)
        return None

    def _relay(self, client: _Wire, sessions: queue.Queue[_Wire]) -> None:
        session: _Wire | None = None
        while (message := client.read())[0] != b"X":
            session = session or self._take(sessions)
            session.send(message)
            if message[0] not in (b"Q", b"S"):
                continue  # the server answers at the end of the question
            while (answer := session.read())[0] != b"Z":
                client.send(answer)
            if answer[1] == b"I":  # no transaction is open
                sessions.put(session)
                session = None
            client.send(answer)

    def _take(self, sessions: queue.Queue[_Wire]) -> _Wire:
        while self._accepting.is_alive():
            with contextlib.suppress(queue.Empty):
                return sessions.get(timeout=0.1)
        raise EOFError

    def _open_sessions(self, database: bytes) -> queue.Queue[_Wire]:
        if database not in self._sessions:
            sessions: queue.Queue[_Wire] = queue.Queue()
            for _ in range(self._pool_size):
                made = socket.socket(socket.AF_UNIX)
                made.connect(str(self._server))
                wire = _Wire(made)
                self._wires.append(wire)
                body = struct.pack("!i", _VERSION) + b"user\0postgres\0database\0" + database + b"\0\0"
                wire.send_bytes(struct.pack("!i", len(body) + 4) + body)
                greeting: list[Message] = []
                while not greeting or greeting[-1][0] != b"Z":
                    greeting.append(wire.read())
                self._greeting = greeting
                sessions.put(wire)
            self._sessions[database] = sessions
        return self._sessions[database]


class _Wire:
    """A socket with the messages of PostgreSQL's protocol."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def close(self) -> None:
        self.shut_down()
        self._socket.close()

    def shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, message: Message) -> None:
        self.send_bytes(message[0] + struct.pack("!i", len(message[1]) + 4) + message[1])

    def read(self) -> Message:
        kind = self._read(1)
        return kind, self._read(struct.unpack("!i", self._read(4))[0] - 4)

    def read_startup(self) -> tuple[int, bytes]:
        body = self._read(struct.unpack("!i", self._read(4))[0] - 4)
        return struct.unpack("!i", body[:4])[0], body[4:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data
