"""A proxy that can stop forwarding, as a firewall or a proxy does that lost its other side."""

from __future__ import annotations

import socket
import threading
from pathlib import Path


class TcpProxy:
    """A proxy from a port of the loopback address to a unix socket. While `is_silent`, it reads and forwards nothing.

    The kernel still accepts and acknowledges everything, so that no timeout of TCP ends a connection.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._forwarding = threading.Event()
        self._forwarding.set()
        self._sockets: list[socket.socket] = []
        self._forgotten: set[socket.socket] = set()
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def is_silent(self) -> bool:
        return not self._forwarding.is_set()

    @is_silent.setter
    def is_silent(self, value: bool) -> None:
        (self._forwarding.clear if value else self._forwarding.set)()

    @property
    def num_connections(self) -> int:
        """Number of connections that were ever made."""
        return len(self._sockets) // 2

    def forget_connections(self) -> None:
        """Forward nothing more on the connections of now, for ever. New ones work."""
        self._forgotten.update(self._sockets)

    def close(self) -> None:
        self._closed.set()
        self._forwarding.set()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._forwarding.wait()
                if source in self._forgotten:
                    self._closed.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
