"""Watch over a child while it works on one job.

It tells how the child ended. :mod:`finch_hub.workers.supervision.attempt` decides what follows.
"""

from __future__ import annotations

import selectors

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.specs.events import NewEvent
from finch_hub.specs.value import JsonObject
from finch_hub.workers.supervision.attempt_record import AttemptRecord
from finch_hub.workers.supervision.lease import Lease, StopReason
from finch_hub.workers.supervision.process import ChildProcess
from finch_hub.workers.supervision.shared_checkpoint import SharedCheckpoint

POLL_SECONDS = 0.5  # how often an attempt looks whether it must stop while nothing arrives
_MEASURE_SECONDS = 5.0
_CANCEL_GRACE = 4.0  # with a heartbeat of 5 s, a cancellation takes effect within 10 s


class ChildWatch:
    """Relays events and stops between a child and its attempt, and enforces limits of time and memory.

    Attributes:
        stop_deadline: when the child must have stopped, by :meth:`Lease.elapsed`; infinite if nothing stops it.
    """

    def __init__(
        self,
        child: ChildProcess,
        lease: Lease,
        record: AttemptRecord,
        checkpoint: SharedCheckpoint,
        settings: Settings,
        *,
        memory_limit: int,
    ) -> None:
        self._child, self._lease, self._record, self._settings = child, lease, record, settings
        self._checkpoint = checkpoint
        self._memory_limit = memory_limit
        self._stop_reason: StopReason | None = None
        self.stop_deadline = float("inf")
        self._heard_at = self._measured_at = lease.elapsed()  # time in doubt does not count

    def run(self) -> JsonObject:
        """Return the child's last message (see :mod:`finch_hub.workers.child`), or why it must be killed.

        A child that must be killed gives `died`, `hung` with a `reason`, or `stopped` with `killed`.

        Raises:
            StaleFence: another attempt owns the job.
        """
        child = self._child
        # PollSelector needs one system call a wait, each of which lets other threads have the interpreter.
        with selectors.PollSelector() as selector:
            selector.register(child.messages_fd, selectors.EVENT_READ)
            selector.register(child.output_fd, selectors.EVENT_READ)
            while True:
                wait = min(POLL_SECONDS, max(0.01, self._record.seconds_until_due()))
                ready = {key.fd for key, _ in selector.select(wait)}
                # First, since after a long pause (stopped, swapped out, asleep) another attempt may own the job.
                self._lease.recover()
                if child.output_fd in ready and not child.read_output():
                    selector.unregister(child.output_fd)
                # Asked only while no message comes. A descendant may keep the pipe open, so it need not end.
                has_ended = child.messages_fd not in ready and not child.is_alive
                if child.messages_fd in ready or has_ended:  # the last messages may have come after the wait
                    self._heard_at = self._lease.elapsed()
                for message in child.read_messages():
                    if message is None:
                        has_ended = True
                    elif message["type"] == "event":
                        try:
                            event = NewEvent.of(message["event"], subject="event")
                        except errors.InvalidSpec as error:
                            return {"type": "hung", "reason": f"sent what is no event ({error})"}
                        self._record.add_event(event)
                    elif message["type"] == "stopped":
                        return message | {"why": self._stop_reason or message["why"]}
                    else:
                        return message
                if has_ended:
                    return {"type": "died"}
                self._record.write_due_events()
                self._checkpoint.copy_if_due()
                if (end := self._check_limits()) is not None:
                    return end

    def _check_limits(self) -> JsonObject | None:
        now = self._lease.elapsed()
        self._relay_stop(now)
        if now >= self.stop_deadline:
            return {"type": "stopped", "why": self._stop_reason, "killed": True}
        if now - self._heard_at > self._settings.stall_seconds:
            return {"type": "hung", "reason": f"reported nothing for {self._settings.stall_seconds:g} s"}
        if now - self._measured_at > _MEASURE_SECONDS:
            self._measured_at = now
            if (used := self._child.resident_bytes()) > self._memory_limit:
                reason = f"used {used:,} bytes of memory (the limit is {self._memory_limit:,})"
                return {"type": "hung", "reason": reason}
        return None

    def _relay_stop(self, now: float) -> None:
        if self._stop_reason or not (reason := self._lease.stop_reason()):
            return
        grace = self._settings.grace_seconds
        self._stop_reason = reason
        self.stop_deadline = now + (grace if reason == "hand_back" else min(_CANCEL_GRACE, grace))
        self._record.log("stop", why=reason)
        self._child.send(type="stop", why="hand_back" if reason == "hand_back" else "cancel")
