"""Exporter of a worker's metrics: a port that Prometheus reads, and a file for the textfile collector."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client as prometheus
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from finch_hub.storage.stores import Stores
from finch_hub.workers.metrics import deployment
from finch_hub.workers.supervision.instruments import OWN
from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger(__name__)

_OLD_SECONDS = 86_400.0  # until the file of a worker that was killed is removed
_CLOSE_SECONDS = 5.0
_CLIENT_SECONDS = 10.0  # that a client may say nothing, before its thread and connection end


class MetricsExporter(Collector):
    """Exporter of the metrics of one worker, if the settings name a port or a folder. Each has the label `worker`.

    A thread measures the deployment now and then, or reads what another worker measured. So a request costs the
    database nothing, and is answered also while the database is not.
    """

    def __init__(self, stores: Stores, *, worker: str) -> None:
        settings = stores.settings
        self._stores, self._worker = stores, worker
        self._port, self._address = settings.metrics_port, settings.metrics_address
        folder = settings.metrics_folder
        self._file = None if folder is None else folder / f"finch-{worker}.prom"
        self._measured: Sequence[Metric] = ()
        self._server: WSGIServer | None = None
        self._registry = prometheus.CollectorRegistry()
        self._registry.register(self)
        self._port_log = TroubleLog(log, "serve_metrics", about="port")
        self._file_log = TroubleLog(log, "write_metrics", about="file")
        self._measure_log = TroubleLog(log, "measure", about="deployment")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Start to export, if anything is to be exported."""
        if self._port is not None or self._file is not None:
            self._thread.start()

    def close(self) -> None:
        """Close the port and remove the file."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def collect(self) -> Iterator[Metric]:
        """Return all metrics. The library calls it for each request."""
        for metric in (*OWN.collect(), *self._measured):
            labeled = copy.copy(metric)
            labeled.samples = [
                sample._replace(labels={"worker": self._worker, **sample.labels})
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield labeled

    def _run(self) -> None:
        while not self._closed.is_set():
            # Each in its own block: an error of one, even an unexpected one, must not end the others.
            with _reporting(self._measure_log):
                self._measured = deployment.measure(self._stores)
            with _reporting(self._port_log):
                self._serve()
            with _reporting(self._file_log):
                self._write()
            self._closed.wait(deployment.MEASURE_SECONDS)

    def _serve(self) -> None:
        """Open the port, unless it is open. Another worker of this machine may have it until it ends."""
        if self._port is not None and self._server is None:
            self._server, _ = prometheus.start_http_server(self._port, self._address, self._registry)
            self._server.RequestHandlerClass = _Request

    def _write(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            prometheus.write_to_textfile(str(self._file), self._registry)
            _remove_old(self._file.parent)


class _Request(WSGIRequestHandler):
    """Request of a client. Silent clients, and those that break off, leave neither a thread nor a line in the log."""

    timeout = _CLIENT_SECONDS

    def handle(self) -> None:
        """Answer the request."""
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class names it
        """Log nothing."""


def _remove_old(folder: Path) -> None:
    """Remove the files of workers that were killed, also unfinished ones."""
    for file in folder.glob("finch-*.prom*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > _OLD_SECONDS:
                file.unlink()


@contextlib.contextmanager
def _reporting(trouble: TroubleLog) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        trouble.add(error)
    else:
        trouble.end()
