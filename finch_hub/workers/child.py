"""The process that computes: it alone holds the accelerator, and it writes no database.

Started by :mod:`finch_hub.workers.supervision.process` with the number of the pipe that its messages go to. Orders
come by standard input::

    {"type": "run", "kind": "train", "order": {...}}    → event…, then one of done, failed, stopped
    {"type": "run_together", "orders": [{...}, ...]}    → the same for each, with its "job"; then ended_together
    {"type": "stop", "why": "cancel" | "hand_back"}     the running order is to end at its next step; one of several
                                                        where "job" names it

It serves one order after another, so that imports and the base model need not be loaded again, and ends when standard
input does.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from finch_hub import errors
from finch_hub.engine.training import Interrupted
from finch_hub.workers import runs
from finch_hub.workers.runs.channel import Channel, Stopped
from finch_hub.workers.supervision import fault_points

# A full disk or a broken one may be whole on another machine, or in a minute; a bad spec stays bad.
_WORTH_RETRYING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def perform(kind: str, order: dict[str, Any], channel: Channel) -> bool:
    """Run one order and send how it ended; return whether this process is fit for another."""
    channel.workdir = Path(order["workdir"])
    try:
        fault_points.at("child.begin")
        outcome = runs.run_of(kind).execute(order, channel)
        fault_points.at("child.end")
    except (Stopped, Interrupted) as stopped:
        channel.bases.forget()  # it may have been left half adapted
        channel.send(type="stopped", why=stopped.why if isinstance(stopped, Stopped) else stopped.kind)
        return True
    except BaseException as error:
        # SystemExit and KeyboardInterrupt too: whatever a plugin does, the job ends and says why.
        channel.send(type="failed", **_describe(error))
        return False
    channel.send(type="done", outcome=outcome, warm_base=channel.bases.key)
    return True


def perform_together(orders: list[dict[str, Any]], channel: Channel) -> bool:
    """Train several jobs in one step, and send how each of them ended; return whether this process is fit for more."""
    from finch_hub.workers.runs import train_group

    members = [channel.members[order["job_id"]] for order in orders]
    left = list(members)

    def settle(place: int, outcome: dict[str, Any] | BaseException) -> None:
        member = members[place]
        left.remove(member)
        if isinstance(outcome, (Stopped, Interrupted)):
            member.send(type="stopped", why=outcome.why if isinstance(outcome, Stopped) else outcome.kind)
        elif isinstance(outcome, BaseException):
            member.send(type="failed", **_describe(outcome))
        else:
            member.send(type="done", outcome=outcome, warm_base=None)

    try:
        fault_points.at("child.begin")
        train_group.execute(orders, members, settle)
    except BaseException as error:
        # Nobody can tell whose fault it is, so all that are left are to be tried again, alone.
        for member in tuple(left):
            member.send(type="failed", **(_describe(error) | {"retry": True}))
        return False
    channel.send(type="ended_together", warm_base=channel.bases.key)
    return True


def _describe(error: BaseException) -> dict[str, Any]:
    ours = isinstance(error, errors.FinchError) and not isinstance(error, errors.PluginError)
    text = str(error)
    return {
        "reason": text if ours else f"{type(error).__name__}: {text}" if text else type(error).__name__,
        "traceback": "" if ours else "".join(traceback.format_exception(error)),
        "retry": isinstance(error, errors.Unavailable | MemoryError)
        or (isinstance(error, OSError) and error.errno in _WORTH_RETRYING),
    }


def _listen(orders: IO[bytes], channel: Channel, inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in orders:
        message = json.loads(line)
        if message["type"] == "stop":
            told = channel.members.get(message["job"]) if "job" in message else channel
            if told is not None:
                told.stop(message["why"])
        else:
            channel.stop(None)  # here, not when it begins: by then it may have been told to stop
            channel.members = {order["job_id"]: channel.member(order) for order in message.get("orders", ())}
            inbox.put(message)
    # The supervisor is gone, in whatever way. Nothing may be left over, whatever the main thread is busy with.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Serve orders until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the supervisor, which tells us
    messages = os.fdopen(int(sys.argv[1]), "wb")
    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a plugin that reads standard input finds it empty
    channel = Channel(messages)
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, channel, inbox), daemon=True).start()
    while True:
        message = inbox.get()
        if message["type"] == "run":
            fit = perform(message["kind"], message["order"], channel)
        else:
            fit = perform_together(message["orders"], channel)
        if not fit:
            sys.exit(0)


if __name__ == "__main__":
    main()
