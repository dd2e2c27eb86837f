"""The process that computes: it alone holds the accelerator, and it writes no database.

Started by :mod:`finch_hub.workers.process` with the number of the pipe that its messages go to. Orders come by standard
input::

    {"type": "run", "kind": "train", "order": {...}}    → event…, then one of done, failed, stopped
    {"type": "run_together", "orders": [{...}, ...]}    → the same for each, with its "job"; then ended_together
    {"type": "stop", "why": "cancel" | "hand_back"}     the running order is to end at its next step; one of several
                                                        where "job" names it

It serves one order after another, so that imports and the base model need not be loaded again, and ends when standard
input does.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

from finch_hub import errors
from finch_hub.engine.training import Interrupted
from finch_hub.plugins.catalogue import Catalogue, load_catalogue
from finch_hub.workers import faults, runs, warmth

Stop = Literal["cancel", "hand_back"]

# A full disk or a broken one may be whole on another machine, or in a minute; a bad spec stays bad.
_WORTH_RETRYING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Stopped(BaseException):
    """The order was told to stop, and did; no `Exception`, so that no plugin's handler takes it for a failure."""

    def __init__(self, why: Stop) -> None:
        super().__init__(why)
        self.why = why


class Channel:
    """What a run sees of the world outside: where to report, and whether to stop.

    Attributes:
        bases: keeps the base model that was loaded last, for the next order.
        members: by job id, the channels of jobs that are trained together.

    """

    def __init__(self, messages: IO[bytes]) -> None:
        self._messages = messages
        self._sending = threading.Lock()
        self._stop: Stop | None = None
        self._workdir = Path()
        self.bases = warmth.WarmBases()
        self.members: dict[str, Channel] = {}
        self._tag: dict[str, str] = {}

    def member(self, order: Mapping[str, Any]) -> Channel:
        """Return the channel of one of several jobs: the same pipe and bases, but its own folder and stops."""
        made = copy.copy(self)
        made.workdir, made._tag, made._stop = Path(order["workdir"]), {"job": order["job_id"]}, None
        return made

    @property
    def workdir(self) -> Path:
        """Folder of this attempt, made when it is asked for; checkpoints in it are there again for the next attempt."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return self._workdir

    @workdir.setter
    def workdir(self, folder: Path) -> None:
        self._workdir = folder

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """What is installed; gathered once in a child's life."""
        return load_catalogue()

    def report(self, event: Mapping[str, Any]) -> None:
        """Report an event: the fields of :class:`finch_hub.registry.values.NewEvent`."""
        self.send(type="event", event=dict(event))

    def phase(self, name: str) -> None:
        """Report that a phase of the work begins; stops here if it was told to."""
        self.report({"type": "phase", "message": name, "data": {"name": name}})
        self.stop_here()

    def should_stop(self) -> Stop | None:
        """Return why the work is to end at its next step, None to go on."""
        return self._stop

    def stop_here(self) -> None:
        """Raise :class:`Stopped` if the work is to end."""
        if self._stop:
            raise Stopped(self._stop)

    def report_or_stop(self, event: Mapping[str, Any]) -> None:
        """Report an event of work that has no checkpoints; it ends here if it was told to."""
        self.report(event)
        self.stop_here()

    def send(self, **message: Any) -> None:
        """Send one message; a supervisor that is gone takes none, and we are about to end."""
        line = json.dumps(message | self._tag, default=str).encode() + b"\n"
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._messages.write(line)
            self._messages.flush()

    def stop(self, why: Stop | None) -> None:
        """Tell the running order to stop; None forgets what an earlier order was told."""
        self._stop = why


def perform(kind: str, order: dict[str, Any], channel: Channel) -> bool:
    """Run one order and send how it ended; return whether this process is fit for another."""
    channel.workdir = Path(order["workdir"])
    try:
        faults.at("child.begin")
        outcome = runs.run_of(kind).execute(order, channel)
        faults.at("child.end")
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
    from finch_hub.workers.runs import gang

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
        faults.at("child.begin")
        gang.execute(orders, members, settle)
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
