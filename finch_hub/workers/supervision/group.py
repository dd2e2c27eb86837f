"""A group of jobs that one child trains in one step, while each stays a job of its own.

Every job has its own attempt in its own thread, with its own lease, fence, events and end. To the attempt, its
:class:`SharedChild` is the child process. The :class:`AttemptGroup` waits until each job is prepared or has ended,
sends the child one order for all, and passes each message to the member that it is about.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import logging
import os
import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from finch_hub.specs.jobs import Job
from finch_hub.specs.value import JsonObject
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.child_watch import POLL_SECONDS
from finch_hub.workers.supervision.lease import ClaimedJob
from finch_hub.workers.supervision.process import Child, ChildProcess

log = logging.getLogger(__name__)

_END_SECONDS = 4.0  # how long the child may go on after the last member has left


class AttemptGroup:
    """Runs the attempts at several jobs side by side on one child.

    Args:
        make_attempt: returns the attempt at a job that works with this child.
        take_child: returns a child for all jobs. It is called once a job is prepared.

    Attributes:
        changed: lock of the group, notified when a member sends its order or leaves.
        is_over: whether the child sends no more messages.
        child: the process while it works, and afterwards if it is fit for another job.
    """

    next_job: ClaimedJob | None = None  # a group claims no job ahead

    def __init__(
        self,
        claimed: Sequence[ClaimedJob],
        make_attempt: Callable[[ClaimedJob, SharedChild], Attempt],
        *,
        take_child: Callable[[], Child],
    ) -> None:
        self._take_child = take_child
        self._suspending: set[SharedChild] = set()
        self.changed = threading.Condition()
        self.is_over = False
        self.job_ids = [member.job.id for member in claimed]
        self.child: Child | None = None
        self._members = [SharedChild(self) for _ in claimed]
        self._attempts = [make_attempt(job, member) for job, member in zip(claimed, self._members, strict=True)]

    @property
    def ended_jobs(self) -> list[Job]:
        """The jobs as their attempts left them."""
        return [job for attempt in self._attempts for job in attempt.ended_jobs]

    def run(self) -> None:
        """Run all attempts to their ends."""
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,  # as this thread, so that logs have its fields
                args=(self._run_attempt, *pair),
                name=f"group-{number}",
                daemon=True,
            )
            for number, pair in enumerate(zip(self._attempts, self._members, strict=True))
        ]
        for thread in threads:
            thread.start()
        try:
            with self.changed:
                self.changed.wait_for(lambda: all(member.order or member.has_left for member in self._members))
                ready = {
                    member.order["job_id"]: member for member in self._members if member.order and not member.has_left
                }
            if ready:
                self._train(ready)
        finally:
            with self.changed:
                self.is_over = True
                for member in self._members:
                    member.wake()
            for thread in threads:
                thread.join()

    def send(self, member: SharedChild, **message: Any) -> None:
        """Send the child an order about one member. The lock keeps two orders apart."""
        with self.changed:
            if self.child is not None and member.order and not self.is_over:
                self.child.send(job=member.order["job_id"], **message)

    def set_suspended(self, member: SharedChild, is_suspended: bool) -> None:
        """Suspend the child while the lease of any member is in doubt."""
        with self.changed:
            was_suspended = bool(self._suspending)
            (self._suspending.add if is_suspended else self._suspending.discard)(member)
            if self.child is None or self.is_over or was_suspended == bool(self._suspending):
                return
            if self._suspending:
                self.child.suspend()
            else:
                self.child.resume()

    def _run_attempt(self, attempt: Attempt, member: SharedChild) -> None:
        try:
            attempt.run()
        except Exception:
            log.exception(
                "run_in_group", extra={"job_id": attempt.job_ids[0]}
            )  # the lease will end, and the job run again
        finally:
            member.kill()

    def _train(self, members: dict[str, SharedChild]) -> None:
        child = self._take_child()
        child.idle_since = None
        with self.changed:
            self.child = child
            child.send(type="run_together", jobs=[member.order for member in members.values()])
        if self._relay(child, members):
            return
        with self.changed:
            self.child = None  # before the kill, after which another process may get its process id
        child.kill()
        with self.changed:
            for member in members.values():
                member.output, member.end = child.last_output(), child.describe_end()

    def _relay(self, child: Child, members: dict[str, SharedChild]) -> bool:
        """Pass messages of the child to the members. Return whether the child can take another order."""
        deadline = float("inf")
        with selectors.DefaultSelector() as selector:
            selector.register(child.messages_fd, selectors.EVENT_READ)
            selector.register(child.output_fd, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(POLL_SECONDS)}
                if child.output_fd in ready and not child.read_output():
                    selector.unregister(child.output_fd)
                is_alive = child.is_alive  # asked before the last messages are read
                for message in child.read_messages():
                    if message is None:
                        is_alive = False
                    elif message["type"] == "ended_together":
                        child.warm_base = message["warm_base"]
                        return not message.get("spent")
                    elif (member := members.get(str(message.pop("job", None)))) is not None:
                        member.deliver(message)
                    else:
                        child.refuse("a message about no job of the group")
                        is_alive = False
                if not is_alive:
                    return False
                if deadline == float("inf") and all(member.has_left for member in members.values()):
                    deadline = clock.elapsed() + _END_SECONDS
                if clock.elapsed() > deadline:
                    return False


class SharedChild(ChildProcess):
    """The child of a group, as the attempt of one member uses it.

    To kill it is to leave the group. The others go on, and the process ends when all have left.
    """

    def __init__(self, group: AttemptGroup) -> None:
        self._group = group
        self._inbox: collections.deque[JsonObject] = collections.deque()
        self.messages_fd, self._wake_fd = os.pipe()
        self.output_fd, unused = os.pipe()
        os.close(unused)  # the output of one member cannot be told apart, so the group keeps it
        for fd in (self.messages_fd, self._wake_fd):
            os.set_blocking(fd, False)
        self.order: JsonObject | None = None
        self.has_left = False
        self.output, self.end = "", "the other jobs of the group had ended"
        self.warm_base: str | None = None
        self.idle_since: float | None = None

    @property
    def has_started(self) -> bool:
        """Return True: the group tries its jobs again alone, which shows whether a child can start."""
        return True

    @property
    def is_alive(self) -> bool:
        """Whether more messages can come."""
        return bool(self._inbox) or not self._group.is_over

    def deliver(self, message: JsonObject) -> None:
        """Add a message of the child about this member."""
        with self._group.changed:
            self._inbox.append(message)
            self.wake()

    def wake(self) -> None:
        """Wake the attempt. The caller holds the lock of the group."""
        if not self.has_left:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_fd, b"\0")

    def send(self, **message: Any) -> None:
        """Send one order. An order to run waits for those of the other members."""
        if message["type"] == "run":
            with self._group.changed:
                self.order = message
                self._group.changed.notify_all()
        else:
            self._group.send(self, **message)

    def read_messages(self) -> Iterator[JsonObject | None]:
        """Yield the messages that have arrived, and None at the end of all messages."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.messages_fd, 65_536)
        while self._inbox:
            yield self._inbox.popleft()
        if not self.is_alive:
            yield None

    def read_output(self) -> bool:
        """Return False: the group keeps the output."""
        return False

    def resident_bytes(self) -> int:
        """Return the resident memory of the shared process."""
        child = self._group.child
        return child.resident_bytes() if child is not None else 0

    def suspend(self) -> None:
        """Suspend the shared process."""
        self._group.set_suspended(self, True)

    def resume(self) -> None:
        """Resume the shared process unless another member suspends it."""
        self._group.set_suspended(self, False)

    def kill(self) -> None:
        """Leave the group. A second call does nothing."""
        if self.has_left:
            return
        self._group.send(self, type="stop", why="cancel")
        self._group.set_suspended(self, False)
        with self._group.changed:
            self.has_left = True
            for fd in (self.messages_fd, self._wake_fd, self.output_fd):
                os.close(fd)
            self._group.changed.notify_all()

    def last_output(self) -> str:
        """Return the end of what the shared process printed."""
        return self.output

    def describe_end(self) -> str:
        """Describe how the shared process ended."""
        return self.end
