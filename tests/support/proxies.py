"""A proxy in front of a server, which speaks TLS or falls silent when a test wants it to."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = datetime.timedelta(days=2)


class Proxy:
    """A TCP proxy on the loopback address, in threads of its own.

    Arguments:
        target: port on loopback, or path of a unix socket, of the server. Change it to lead new connections elsewhere.
        certificate: file with certificate and key; the proxy's clients speak TLS then.

    """

    def __init__(self, target: int | Path, *, certificate: Path | None = None) -> None:
        self.target = target
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate)
        self._forwards = threading.Event()
        self._forwards.set()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Forward nothing any more and close nothing, as a firewall that forgot its connections."""
        self._forwards.clear()

    def release(self) -> None:
        """Forward again, also what came meanwhile."""
        self._forwards.set()

    def close(self) -> None:
        self._closed = True
        self._forwards.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        """Connect a client. A client whose TLS fails is disconnected."""
        with contextlib.ExitStack() as ending, contextlib.suppress(OSError):
            ending.enter_context(client)
            self._forwards.wait()
            if self._closed:
                return
            if self._context is not None:
                client = ending.enter_context(self._context.wrap_socket(client, server_side=True))
                self._sockets.append(client)
            is_port = isinstance(self.target, int)
            server = ending.enter_context(socket.socket(socket.AF_INET if is_port else socket.AF_UNIX))
            self._sockets.append(server)
            server.connect(("127.0.0.1", self.target) if is_port else str(self.target))
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._forwards.wait()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def make_certificate(folder: Path, *, name: str) -> Path:
    """Return a new file with a key and its self-signed certificate, which is an authority too.

    Arguments:
        name: host name or address that the certificate is for.

    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finch test")])
    try:
        host: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        host = x509.DNSName(name)
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - _LIFE)
        .not_valid_after(today + _LIFE)
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file
