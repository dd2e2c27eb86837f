"""Sender of messages to queues of the broker, none of which may hold messages for long."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from finch_hub.registry import deployment
from finch_hub.registry.database import Database
from finch_hub.workers.messaging import broker

if TYPE_CHECKING:
    import celery
    from redis.client import Pipeline

# Seconds after the last message of a queue until the broker drops the whole queue. All slots that could have taken the
# messages have looked for jobs by then. So no message waits for ever for a worker that is gone.
EXPIRE_SECONDS = 60

_CONNECTIONS = 10  # threads that send at a time
_CLOSE_SECONDS = 2.0  # for which the end of a client or worker waits for the broker

Result = TypeVar("Result")


class Sender:
    """Sender of wake-up messages. It keeps its connections, and renews a broken one.

    Args:
        find_url: function that returns the address of the broker.
    """

    def __init__(self, database: Database, find_url: Callable[[], str]) -> None:
        self._database, self._find_url = database, find_url
        self._link: _Link | None = None
        self._deployment = ""

    def count_waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """Return the number of messages that wait in each queue of the broker.

        Raises:
            Unavailable: the broker does not answer, or refuses.
        """
        return self._use_broker(functools.partial(self._count_waiting, queues))

    def send(self, messages: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Send messages, given as the job ids for each queue of the broker. An empty id names no job.

        Return the number of messages that wait in each of these queues afterwards.

        Raises:
            Unavailable: the broker does not answer, or refuses.
        """
        return self._use_broker(functools.partial(self._send, messages))

    def trim(self, queue: str, limit: int) -> None:
        """Drop the oldest messages of a queue, so that no more than `limit` are left.

        Raises:
            Unavailable: the broker does not answer, or refuses.
        """
        self._use_broker(functools.partial(self._trim, queue, limit))

    def close(self) -> None:
        """Close the connections to the broker. One that does not answer is left to close in the background."""
        if self._link is not None:
            used, self._link = self._link, None
            closing = threading.Thread(target=used.close, name="close-sender", daemon=True)
            closing.start()
            closing.join(_CLOSE_SECONDS)

    def _use_broker(self, use: Callable[[_Link], Result]) -> Result:
        from finch_hub.workers.messaging import app

        is_new = self._link is None
        try:
            return use(self._connect())
        except app.BROKER_ERRORS as error:
            # A new connection finds a server that was started again, or that took over the name.
            self.close()
            if is_new:
                raise broker.explain(error, self._find_url()) from error
            return self._use_broker(use)

    def _count_waiting(self, queues: Sequence[str], link: _Link) -> dict[str, int]:
        with link.producers.acquire(block=True) as producer, _open_pipeline(producer) as pipeline:
            for queue in queues:
                pipeline.llen(self._key(queue))
            return dict(zip(queues, pipeline.execute(), strict=True))

    def _send(self, messages: Mapping[str, Sequence[str]], link: _Link) -> dict[str, int]:
        with link.producers.acquire(block=True) as producer, _open_pipeline(producer) as pipeline:
            for queue, job_ids in messages.items():
                for job_id in job_ids:
                    link.app.send_task(
                        broker.WAKE,
                        args=[job_id],
                        queue=queue,
                        producer=producer,
                        declare=[],
                        retry=False,
                        ignore_result=True,
                    )
                pipeline.expire(self._key(queue), EXPIRE_SECONDS)
                pipeline.llen(self._key(queue))
            return dict(zip(messages, pipeline.execute()[1::2], strict=True))

    def _trim(self, queue: str, limit: int, link: _Link) -> None:
        with link.producers.acquire(block=True) as producer, _open_pipeline(producer) as pipeline:
            pipeline.ltrim(self._key(queue), 0, limit - 1)  # messages are added at the head
            pipeline.execute()

    def _key(self, queue: str) -> str:
        return f"{broker.key_prefix(self._deployment)}{queue}"

    def _connect(self) -> _Link:
        link = self._link
        if link is None:
            from finch_hub.workers.messaging import app

            with self._database.read() as session:
                self._deployment = deployment.find_id(session)
            link = self._link = _Link(app.make_app(self._find_url(), deployment=self._deployment))
        return link


class _Link:
    """Connections of one sender. Celery's own would be of all senders of the process, and outlive each of them."""

    def __init__(self, app: celery.Celery) -> None:
        from kombu import pools

        self.app = app
        self._connections = app.connection_for_write().Pool(limit=_CONNECTIONS)
        self.producers = pools.ProducerPool(self._connections, limit=_CONNECTIONS, Producer=app.amqp.Producer)

    def close(self) -> None:
        """Close the connections, also those in use."""
        for pool in (self.producers, self._connections):
            with contextlib.suppress(Exception):  # of a connection that is broken already
                pool.force_close_all()
        self.app.close()


def _open_pipeline(producer: Any) -> Pipeline:
    """Return a pipeline on the connections of a producer, without Celery's prefix of keys, which few commands have."""
    import redis

    return redis.Redis(connection_pool=producer.channel.pool).pipeline(transaction=False)
