"""Workers as their operators see them: listed, drained, stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import listeners, values, workers
from finch_hub.storage.changes import changing

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores

_POLL_SECONDS = 0.5


class Workers:
    """The workers that use this hub's database."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def find(self) -> list[values.Worker]:
        """Return the workers by name. A worker is `silent` if it sent no heartbeat for a minute."""
        with self._stores.database.read() as session:
            return workers.find(session)

    def find_listeners(self) -> list[values.Listener]:
        """Return the listeners of the workers' plugins by name, with what they have not heard."""
        with self._stores.database.read() as session:
            return listeners.find(session)

    def drain(self, name: str) -> values.Worker:
        """Ask a worker to accept no new jobs and to stop after its current jobs.

        Raises:
            NotFound: there is no such worker.
            Conflict: it has stopped.
        """
        with changing(self._stores, "worker.drain", name) as change, change.write() as session:
            return workers.request_state(session, name, "draining")

    def stop(self, name: str) -> values.Worker:
        """Ask a worker to checkpoint its jobs, put them back into the queue and stop.

        Raises:
            NotFound: there is no such worker.
            Conflict: it has stopped.
        """
        with changing(self._stores, "worker.stop", name) as change, change.write() as session:
            return workers.request_state(session, name, "stopping")

    def wait_until_stopped(self, name: str, *, timeout: float | None = None) -> values.Worker:
        """Wait until a worker has stopped, or is silent since it was killed, and return it.

        Args:
            timeout: seconds to wait; None waits without a limit.

        Raises:
            NotFound: there is no such worker.
            TimeoutError: it has not stopped in that time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = {worker.id: worker for worker in self.find()}
            if name not in found:
                raise errors.NotFound("worker", name, found)
            if found[name].state in workers.GONE:
                return found[name]
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"worker {name} has not stopped after {timeout:g} s")
            time.sleep(_POLL_SECONDS)

    def stop_own(self) -> bool:
        """Stop the worker that the hub started on demand in this home, with its private broker.

        Returns:
            Whether there was such a worker. It has stopped by then.

        Raises:
            Unavailable: it did not stop within a minute.
        """
        from finch_hub.workers.embedded import worker as home_worker

        return home_worker.stop(self._stores.settings)
