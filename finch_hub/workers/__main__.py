"""Process of the home's own worker, which :func:`finch_hub.workers.embedded.worker.ensure` starts."""

from __future__ import annotations

import logging
import os
import sys

import filelock
from celery import signals

from finch_hub import errors, settings
from finch_hub.formats.installed_metadata import read_leniently
from finch_hub.workers.embedded import code_version, home
from finch_hub.workers.embedded import worker as home_worker
from finch_hub.workers.hostname import find_hostname
from finch_hub.workers.logs.setup import LogFile, set_up_logging
from finch_hub.workers.worker import Worker

log = logging.getLogger("finch_hub.workers")  # not "__main__", which is no logger of ours


def main() -> int:
    """Run the home's own worker, unless one runs already. Return the exit status."""
    read_leniently()
    loaded = settings.load()
    lock = home.lock(loaded, "worker")
    try:
        lock.acquire(timeout=1.0)
    except filelock.Timeout:
        running = home_worker.read_record(loaded)
        if running is not None and running.get("code") == code_version.current():
            return 0  # several clients started a worker at the same time
        try:
            lock.acquire(timeout=loaded.grace_seconds + 10)  # a worker with older code hands its jobs back
        except filelock.Timeout:
            return 0
    try:
        home_worker.write_record(loaded)
        log_file = LogFile(loaded.home / "logs" / "worker.log")
        log_file.take_output()
        set_up_logging(loaded, log_file)
        signals.worker_ready.connect(lambda **_: home_worker.note_ready(loaded), weak=False)
        worker = Worker(loaded, name=f"{find_hostname()}-home-{os.getpid()}", is_on_demand=True)
        status = worker.run()
    except errors.FinchError as error:
        log.error("start", extra={"error": error})
        return 1
    finally:
        lock.release()
    # A client that submitted before the release saw a worker and started none. Its job is committed by now.
    if worker.has_overlooked_work():
        home_worker.ensure(loaded)
    return status


if __name__ == "__main__":
    sys.exit(main())
