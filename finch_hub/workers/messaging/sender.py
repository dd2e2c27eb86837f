"""Sender of messages to queues of the broker, none of which may hold messages for long."""

from __future__ import annotations

import contextlib
import functools
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

Result = TypeVar("Result")


class Sender:
    """Sender of wake-up messages. It keeps its connections, and renews a broken one.

    Args:
        find_url: function that returns the address of the broker.
    """

    def __init__(self, database: Database, find_url: Callable[[], str]) -> None:
        self._database, self._find_url = database, find_url
        self._app: celery.Celery | None = None
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
        """Close the connections to the broker."""
        if self._app is not None:
            used, self._app = self._app, None
            with contextlib.suppress(Exception):  # of a connection that is broken already
                used.close()

    def _use_broker(self, use: Callable[[celery.Celery], Result]) -> Result:
        from finch_hub.workers.messaging import app

        is_new = self._app is None
        try:
            return use(self._connect())
        except app.BROKER_ERRORS as error:
            # A new connection finds a server that was started again, or that took over the name.
            self.close()
            if is_new:
                raise broker.explain(error, self._find_url()) from error
            return self._use_broker(use)

    def _count_waiting(self, queues: Sequence[str], app: celery.Celery) -> dict[str, int]:
        with app.producer_or_acquire() as producer, _open_pipeline(producer) as pipeline:
            for queue in queues:
                pipeline.llen(self._key(queue))
            return dict(zip(queues, pipeline.execute(), strict=True))

    def _send(self, messages: Mapping[str, Sequence[str]], app: celery.Celery) -> dict[str, int]:
        with app.producer_or_acquire() as producer, _open_pipeline(producer) as pipeline:
            for queue, job_ids in messages.items():
                for job_id in job_ids:
                    app.send_task(
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

    def _trim(self, queue: str, limit: int, app: celery.Celery) -> None:
        with app.producer_or_acquire() as producer, _open_pipeline(producer) as pipeline:
            pipeline.ltrim(self._key(queue), 0, limit - 1)  # messages are added at the head
            pipeline.execute()

    def _key(self, queue: str) -> str:
        return f"{broker.key_prefix(self._deployment)}{queue}"

    def _connect(self) -> celery.Celery:
        if self._app is None:
            from finch_hub.workers.messaging import app

            with self._database.read() as session:
                self._deployment = deployment.find_id(session)
            self._app = app.make_app(self._find_url(), deployment=self._deployment)
        return self._app


def _open_pipeline(producer: Any) -> Pipeline:
    """Return a pipeline on the connections of a producer, without Celery's prefix of keys, which few commands have."""
    import redis

    return redis.Redis(connection_pool=producer.channel.pool).pipeline(transaction=False)
