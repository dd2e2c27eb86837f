"""The Celery application, with one task: wake up and look for jobs.

A message only says that there may be work. The database says which. So nothing in the broker needs to survive: idle
slots also look for jobs without a message, and of five slots that one message woke, one finds the job.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import celery
import kombu
import kombu.exceptions
import redis

from finch_hub.workers.embedded.broker import client_name
from finch_hub.workers.messaging.broker import BrokerStatus, explain, key_prefix, own_queue_name, queue_name

# Seconds to wait for a broker that does not answer. A client's job is stored by then, and an idle slot finds it. A
# worker that is told to stop waits as long.
TIMEOUT = 2.0
# Seconds between questions whether an idle connection of a worker still answers.
HEALTH_SECONDS = 10

# What clients of a broker raise if it does not answer or refuses. kombu passes refusals on as errors of redis-py.
BROKER_ERRORS = (kombu.exceptions.KombuError, redis.RedisError, OSError)

# The kernel asks for signs of life of an idle connection. macOS has fewer of these options.
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name)
}


def make_app(
    broker_url: str, *, deployment: str, queues: Iterable[str] = ("default",), worker: str | None = None
) -> celery.Celery:
    """Return the application of a client, or of a named worker that consumes these queues and its own.

    Args:
        deployment: id of the deployment, from its database.
    """
    app = celery.Celery("finch_hub", broker=broker_url, set_as_current=False)
    names = [queue_name(queue) for queue in queues]
    if worker is not None:
        names.append(own_queue_name(worker))
    transport: dict[str, Any] = {
        "global_keyprefix": key_prefix(deployment),
        # Find connections that died in silence, as behind a firewall that forgot them. The answer to a worker that
        # waits for messages is never read before it is there, so the timeout does not end the wait.
        "health_check_interval": HEALTH_SECONDS,
        "socket_connect_timeout": TIMEOUT,
        "socket_timeout": TIMEOUT,
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
        # A client does not retry: its job is stored, and an idle slot finds it. A worker has its own loop.
        "max_retries": 0,
        # No copies of unacknowledged messages, which a broker without memory would refuse to keep.
        "ack_emulation": False,
    }
    if urlsplit(broker_url).scheme == "rediss":
        # By itself kombu verifies no certificate. Options of the address replace this one, and redis-py verifies then
        # too, unless `ssl_cert_reqs` is none.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if worker is not None and urlsplit(broker_url).scheme == "redis+socket":
        transport["client_name"] = client_name(worker)  # a server of another owner may forbid names
    app.conf.update(
        # Clients read results from the database. A results backend would be a second, weaker truth.
        result_backend=None,
        task_ignore_result=True,
        # JSON only, since a pickle from the broker could run any code.
        task_serializer="json",
        accept_content=["json"],
        # Acknowledged before the job runs. With late acknowledgement the broker delivers a long job again after
        # `visibility_timeout` (measured: three overlapping runs), and after a crash only 100 s later.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        # Jobs go on without the broker, which they do not need.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # A worker fetches no message in advance, so that a busy worker keeps none from an idle one. A multiplier of 1
        # alone still fetches one message more, hence `worker_disable_prefetch`.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Slots are threads of one light process, each with a child process; see SlotPool.
        worker_pool="finch_hub.workers.messaging.slot_pool:SlotPool",
        # The worker waits for its broker, also at its start, for as long as it takes.
        worker_consumer="finch_hub.workers.messaging.consumer:Consumer",
        broker_connection_retry_on_startup=True,
        # Workers have their own log and signals, so Celery sends neither remote control nor events over the broker.
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_state_db=None,
        task_default_queue=queue_name("default"),
        # Not declared, because a queue is a key that exists while it holds messages. A declaration would write a
        # binding, which a broker without memory refuses.
        task_queues=[kombu.Queue(name, routing_key=name, no_declare=True) for name in names],
        task_create_missing_queues=True,
        broker_transport_options=transport,
        enable_utc=True,
    )
    return app


def remove_own_queue(app: celery.Celery, worker: str) -> None:
    """Remove the queue of a worker that has ended, unless the broker does not answer or refuses."""
    with contextlib.suppress(*BROKER_ERRORS), app.connection_for_write() as connection:
        connection.default_channel.queue_purge(own_queue_name(worker))


def check_broker(url: str) -> BrokerStatus:
    """Check that a broker answers, accepts the password and takes messages, and return its status.

    Raises:
        AccessDenied: the broker rejected the password.
        Unavailable: the broker does not answer, or refuses. The message has the reason, without the password.
    """
    app = make_app(url, deployment="")  # of none
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            with connection.default_channel.conn_or_acquire() as client:
                client.lpush("check", "")
                client.delete("check")
                return _read_status(client)
    except BROKER_ERRORS as error:
        raise explain(error, url) from error
    finally:
        app.close()


def _read_status(client: redis.Redis) -> BrokerStatus:
    try:
        told: dict[str, Any] = {**client.info("memory"), **client.info("stats")}
        seconds, microseconds = client.time()
    except redis.ResponseError:  # the server forbids it to this user
        return BrokerStatus()
    return BrokerStatus(
        used_bytes=told.get("used_memory"),
        limit_bytes=told.get("maxmemory"),
        policy=told.get("maxmemory_policy"),
        evicted_keys=told.get("evicted_keys"),
        clock=seconds + microseconds / 1e6,
    )
