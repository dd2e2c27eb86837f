"""Workers as their operators see them: who is there, and telling them to drain or to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub.registry import values, workers

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Workers:
    """The workers that serve this hub's database."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def find(self) -> list[values.Worker]:
        """Return the workers by name; `silent` are those not heard of for a minute."""
        with self._stores.database.read() as session:
            return workers.find(session)

    def drain(self, name: str) -> values.Worker:
        """Tell a worker to finish what it runs, take nothing more, and end.

        Raises:
            NotFound: there is no such worker.
            Conflict: it has stopped.

        """
        with self._stores.database.write() as session:
            return workers.tell(session, name, "draining")

    def stop(self, name: str) -> values.Worker:
        """Tell a worker to checkpoint, hand its jobs back and end; it hears within its heartbeat.

        Raises:
            NotFound: there is no such worker.
            Conflict: it has stopped.

        """
        with self._stores.database.write() as session:
            return workers.tell(session, name, "stopping")

    def stop_own(self) -> bool:
        """End the worker that the hub started on demand in this home, and the private broker with it.

        Returns once it has ended; tells whether there was one.

        Raises:
            Unavailable: it has not ended after a minute.

        """
        from finch_hub.workers.embedded import worker as home_worker

        return home_worker.stop(self._stores.settings)
