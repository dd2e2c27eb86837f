"""The Celery application: one task, the doorbell.

A message says that there may be work; the database says what it is. So nothing here needs to survive: a lost message
is sent again by the reconciler, and one delivered five times wakes five slots of which one finds the row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import celery
import kombu
import kombu.exceptions

from finch_hub.workers.messaging.broker import explain

WAKE = "finch_hub.wake"
KEY_PREFIX = "finch:"

# Seconds a client may wait for a broker that does not answer; its job is stored by then, the reconciler sends the rest.
PUBLISH_TIMEOUT = 2.0


def queue_name(queue: str) -> str:
    """Return the broker's name of one of our queues."""
    return f"jobs.{queue}"


def own_queue_name(worker: str) -> str:
    """Return the broker's name of the queue that rings for one worker alone."""
    return f"worker.{worker}"


def make_app(broker_url: str, *, queues: Iterable[str] = ("default",), worker: str | None = None) -> celery.Celery:
    """Make the application for one broker; a worker, named, consumes its own and these queues, a client publishes."""
    app = celery.Celery("finch_hub", broker=broker_url, set_as_current=False)
    names = [queue_name(queue) for queue in queues]
    if worker is not None:
        names.append(own_queue_name(worker))
    transport: dict[str, Any] = {
        # A broker that several programs share: every key of ours is told apart by its name.
        "global_keyprefix": KEY_PREFIX,
        # Dead connections are noticed by asking, not by the first job that does not come.
        "health_check_interval": 10,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
    }
    if worker is None:
        # A worker waits in BRPOP, so it takes no read timeout. A client never waits for long, nor tries again: its job
        # is stored, and the next sweep rings for it.
        transport |= {"socket_timeout": PUBLISH_TIMEOUT, "max_retries": 0}
    app.conf.update(
        # Whoever waits for a result asks the database. A results backend would be a second, weaker truth.
        result_backend=None,
        task_ignore_result=True,
        # JSON only, both ways: a pickle from the broker would be code from the broker.
        task_serializer="json",
        accept_content=["json"],
        # Acknowledged before it runs. Late acknowledgement would have the broker redeliver what runs longer than
        # `visibility_timeout` (measured: three overlapping runs) or 100 s after a crash; leases do both better.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        # A job runs on if the broker goes away: the doorbell being broken is no reason to leave the table.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # One message in one slot's hands and none in reserve: a busy worker keeps no wake-up from an idle one. A
        # multiplier of 1 alone still reserves one message more, hence `worker_disable_prefetch`.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # The slots are threads of one light process, each watching over a child process; see SlotPool.
        worker_pool="finch_hub.workers.messaging.slot_pool:SlotPool",
        # A broker that is down when the worker starts, or for days, is waited for.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Our own log and signals; no remote control, events or result chatter over the broker.
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_state_db=None,
        task_default_queue=queue_name("default"),
        task_queues=[kombu.Queue(name, routing_key=name) for name in names],
        task_create_missing_queues=True,
        broker_transport_options=transport,
        enable_utc=True,
    )
    return app


def remove_own_queue(app: celery.Celery, worker: str) -> None:
    """Remove the queue of a worker that has ended, with what nobody will hear; a broker that is away keeps it."""
    name = own_queue_name(worker)
    with contextlib.suppress(kombu.exceptions.KombuError, OSError), app.connection_for_write() as connection:
        queue = kombu.Queue(name, kombu.Exchange(name), routing_key=name)(connection.default_channel)
        queue.declare()  # deleting takes along the bindings that this connection knows of
        queue.delete()


def check_broker(url: str) -> None:
    """Make sure that a broker answers and lets us in.

    Raises:
        AccessDenied: it wants another password.
        Unavailable: it does not answer; says why, without its password.

    """
    app = make_app(url)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT)
    except (kombu.exceptions.KombuError, OSError) as error:
        raise explain(error, url) from error
    finally:
        app.close()
