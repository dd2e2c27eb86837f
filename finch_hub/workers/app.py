"""The Celery application: one task, the doorbell.

A message says that there may be work; the database says what it is. So nothing here needs to survive: a lost message
is sent again by the reconciler, and one delivered five times wakes five slots of which one finds the row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import celery
import kombu
import kombu.exceptions

from finch_hub import errors

WAKE = "finch_hub.wake"
KEY_PREFIX = "finch:"

# Seconds a client may wait for a broker that does not answer; its job is stored by then, the reconciler sends the rest.
PUBLISH_TIMEOUT = 2.0


def queue_name(queue: str) -> str:
    """Return the broker's name of one of our queues."""
    return f"jobs.{queue}"


def make_app(broker_url: str, *, queues: Iterable[str] = ("default",), worker: bool = False) -> celery.Celery:
    """Make the application for one broker; a worker consumes the queues, a client only publishes to them."""
    app = celery.Celery("finch_hub", broker=broker_url, set_as_current=False)
    names = [queue_name(queue) for queue in queues]
    transport: dict[str, Any] = {
        # A broker that several programs share: every key of ours is told apart by its name.
        "global_keyprefix": KEY_PREFIX,
        # Dead connections are noticed by asking, not by the first job that does not come.
        "health_check_interval": 10,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
    }
    if not worker:
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
        worker_pool="finch_hub.workers.pool:SlotPool",
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


def refuse_open_broker(url: str, *, allow_insecure: bool) -> None:
    """Refuse a broker that anyone on the network could ring; the database refuses for itself.

    Raises:
        InvalidSpec: it has no password, is neither on loopback nor a unix socket, and `allow_insecure` is off.

    """
    parts = urlsplit(url)
    if allow_insecure or not parts.hostname or parts.password or _is_loopback(parts.hostname):
        return
    raise errors.InvalidSpec(
        errors.Problem(
            where="FINCH_BROKER_URL",
            what=f"the broker at {parts.hostname} has no password and is not on this machine",
            fix="give it one (redis://:PASSWORD@HOST), or set FINCH_ALLOW_INSECURE=1 if the network is trusted",
        ),
        subject="settings",
    )


def check_broker(url: str) -> None:
    """Make sure that a broker answers and lets us in.

    Raises:
        Unavailable: it does not; says why, without its password.

    """
    app = make_app(url)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT)
    except (kombu.exceptions.KombuError, OSError) as error:
        raise errors.Unavailable(f"the broker at {urlsplit(url).hostname} does not answer: {error}") from error
    finally:
        app.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
