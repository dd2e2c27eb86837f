"""The child process. It alone holds the accelerator, and it never writes to the database.

:mod:`finch_hub.workers.supervision.process` starts it with the number of the pipe for its messages. Orders come by
standard input, a line of JSON each::

    {"type": "run", "kind": "train", "job_id": …, "workdir": …, "order": {…}}
        → events, then one of done, failed, stopped
    {"type": "run_together", "jobs": [{"job_id": …, "workdir": …, "order": {…}}, …]}
        → the same for each job, with its "job"; then ended_together with "warm_base" and "spent"
    {"type": "stop", "why": "cancel" | "hand_back"}
        → the running order stops at its next step; with "job", that one of several
    {"type": "call", "listener": …, "job": {…}}
        → heard or failed

A message of the child is one of these lines::

    {"type": "ready"}                                            once, when it can take orders
    {"type": "event", "event": {…}}                              finch_hub.specs.events.NewEvent
    {"type": "done", "outcome": {…}, "warm_base": …, "spent": …}
        the kind's outcome, the base that stays loaded, and whether the process must not take another order
    {"type": "failed", "reason": …, "traceback": …, "retry": …, "of_worker": …, "of_any_job": …, "unusable": …}
        whether another attempt may succeed, whether another worker would hardly fail in this way, whether other jobs
        would fail here too, and the version with which the base computes no numbers
    {"type": "stopped", "why": …, "spent": …}
    {"type": "heard"}                                            the listener has returned

It serves one order after another, so that imports and the base model are loaded once. It ends when standard input ends.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any, cast

from finch_hub import errors
from finch_hub.engine.data import row_time
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.formats.atomic_writes import write_for
from finch_hub.formats.installed_metadata import read_leniently
from finch_hub.plugins import foreign_code
from finch_hub.progress import listen
from finch_hub.settings import LogFormat, LogLevel
from finch_hub.specs.jobs import Job
from finch_hub.specs.value import Value
from finch_hub.storage.redaction import Redactor
from finch_hub.workers.logs.context import log_fields
from finch_hub.workers.logs.setup import log_to
from finch_hub.workers.runs import kinds
from finch_hub.workers.runs.channel import Channel, Stopped
from finch_hub.workers.supervision import descendants, fault_points

# Another machine, or this one in a minute, may have room or a disk that works. A wrong specification stays wrong.
_OF_MACHINE = frozenset(
    {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EROFS, errno.ESTALE}
)
# As PyTorch words them. An assertion on the device is an error of the job: an index is out of range.
_DEVICE_ERROR = re.compile(r"CUDA (error(?!: device-side assert)|driver|unknown error)|No CUDA GPUs|NVML|cuDNN error")


def run(message: dict[str, Any], channel: Channel) -> bool:
    """Run one order, and send how it ended. Return whether this process can take another order."""
    channel.workdir = Path(message["workdir"])
    try:
        fault_points.reach("child.begin")
        kind = kinds.kind_of(message["kind"])
        with listen(channel.advance), write_for(message["job_id"]), log_fields(job_id=message["job_id"]):
            outcome: Value = kind.execute(kind.order.of(message["order"], subject=f"{kind.name} order"), channel)
        fault_points.reach("child.end")
        _send_end(channel, outcome, warm_base=channel.bases.key)
    except (Stopped, Interrupted) as stopped:
        channel.bases.clear()  # the base may still hold the adapter
        _send_end(channel, stopped)
    except BaseException as error:
        # SystemExit and KeyboardInterrupt too: whatever a plugin does, the job ends with a reason.
        _send_end(channel, error)
        return False
    return True


def run_together(message: dict[str, Any], channel: Channel) -> bool:
    """Train several jobs in one step, and send how each ended. Return whether this process can take another order."""
    from finch_hub.workers.runs import train

    members = [channel.members[job["job_id"]] for job in message["jobs"]]
    running = list(members)

    def ended(position: int, outcome: Value | BaseException) -> None:
        _send_end(members[position], outcome)
        running.remove(members[position])

    try:
        fault_points.reach("child.begin")
        orders = [train.TrainOrder.of(job["order"], subject="train order") for job in message["jobs"]]
        train.execute_together(orders, members, ended)
    except BaseException as error:
        # The fault cannot be told from here, so each job that is left is tried again, alone.
        for member in tuple(running):
            member.send(type="failed", **(_describe(error) | {"retry": True}))
        return False
    channel.send(type="ended_together", warm_base=channel.bases.key, spent=_is_spent())
    return True


def call(message: dict[str, Any], channel: Channel) -> bool:
    """Call a listener with a job, and send how the call ended. Return that this process can take another order."""
    try:
        job = Job.of(message["job"], subject="job")
        channel.catalog.listeners[message["listener"]].load()(job)
    except BaseException as error:  # SystemExit, too
        channel.send(type="failed", **_describe(error))
    else:
        channel.send(type="heard")
    return True


def _send_end(channel: Channel, end: Value | BaseException, *, warm_base: str | None = None) -> None:
    spent = _is_spent()
    if isinstance(end, (Stopped, Interrupted)):
        channel.send(type="stopped", why=end.why if isinstance(end, Stopped) else end.kind, spent=spent)
    elif isinstance(end, BaseException):
        channel.send(type="failed", **_describe(end))
    else:
        outcome = end.model_dump(mode="json", fallback=str)  # the figures of a plugin may be no JSON
        channel.send(type="done", outcome=outcome, warm_base=warm_base, spent=spent)


def _is_spent() -> bool:
    """Return whether this process must not take another order: what plugins left in it may be of the ended job."""
    return foreign_code.may_spoil_results() or descendants.has_any()


def _describe(error: BaseException) -> dict[str, Any]:
    is_of_plugin = isinstance(error, errors.PluginError)
    is_expected = isinstance(error, errors.FinchError) and not is_of_plugin
    is_of_worker = _is_of_worker(error)
    return {
        "reason": str(error) if is_expected or is_of_plugin else foreign_code.describe(error),
        "traceback": "" if is_expected else "".join(traceback.format_exception(error)),
        "retry": is_of_worker
        or isinstance(error, errors.Unavailable | MemoryError)
        or isinstance(error.__cause__, MemoryError),
        "of_worker": is_of_worker,
        # A base or a plugin may need a library that no worker has. Then its error has the failed import as its cause.
        "of_any_job": is_of_worker
        and not (isinstance(error, errors.FinchError) and isinstance(error.__cause__, ImportError)),
        "unusable": error.adapter if isinstance(error, errors.UnusableAdapter) else None,
    }


def _is_of_worker(error: BaseException) -> bool:
    """Return whether an error tells of this machine: of its disk, its libraries or its device."""
    return any(
        isinstance(cause, ImportError)
        or (isinstance(cause, OSError) and cause.errno in _OF_MACHINE)
        or (isinstance(cause, RuntimeError) and _DEVICE_ERROR.search(str(cause)) is not None)
        for cause in (error, error.__cause__)
    )


def _listen(orders: IO[bytes], channel: Channel, inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in orders:
        message = json.loads(line)
        if message["type"] == "stop":
            stopping = channel.members.get(message["job"]) if "job" in message else channel
            if stopping is not None:
                stopping.stop(message["why"])
        else:
            channel.stop(None)  # here, since a stop may follow before the order begins
            jobs = message.get("jobs", ())
            channel.members = {job["job_id"]: channel.member(job["job_id"], Path(job["workdir"])) for job in jobs}
            inbox.put(message)
    # The supervisor is gone. No process may be left, whatever the main thread does.
    descendants.kill(lambda: descendants.find(os.getpid()))
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


_SERVE = {"run": run, "run_together": run_together, "call": call}


def main() -> None:
    """Serve orders until standard input ends."""
    # Service managers and terminals signal all processes of a worker. The supervisor alone decides when this one stops.
    # Handlers that do nothing are not passed on to programs that a plugin starts, as an ignored signal would be.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    descendants.adopt()
    read_leniently()
    row_time.end_stuck_process()
    log_format = cast(LogFormat, os.environ.get("FINCH_LOG_FORMAT", "logfmt"))
    log_level = cast(LogLevel, os.environ.get("FINCH_LOG_LEVEL", "info"))
    log_to(logging.StreamHandler(), log_format, log_level, Redactor())
    messages = os.fdopen(int(sys.argv[1]), "wb")
    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a plugin that reads standard input finds it empty
    channel = Channel(messages)
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, channel, inbox), daemon=True).start()
    channel.send(type="ready")
    while True:
        message = inbox.get()
        if not _SERVE[message["type"]](message, channel):
            sys.exit(0)


if __name__ == "__main__":
    main()
