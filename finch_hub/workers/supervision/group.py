"""Several jobs that one child trains in one step, while each of them stays a job of its own.

Every member has its attempt, in a thread of its own, with its own lease, fence, events and end. To an attempt its
:class:`Seat` is the child. The :class:`Gang` stands between the seats and the one process: it waits until each member
has prepared its part or given up, sends one order, and passes every message to the member that it is about.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.workers.supervision import clock

if TYPE_CHECKING:
    from finch_hub.specs.jobs import Job
    from finch_hub.workers.supervision.attempt import Attempt
    from finch_hub.workers.supervision.process import Child

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_END_SECONDS = 4.0  # how long a child may go on after the last of its members has ended


class Gang:
    """Runs attempts side by side on one child; see :class:`Seat`.

    Args:
        child: returns a child that is fit for all of them; asked for once somebody has something to train.

    Attributes:
        attempts: to be put here, each with one of `seats` for its child, before `run`.
        child: the process, while it runs and, where it is fit for another job, afterwards.

    """

    def __init__(self, child: Callable[[], Child], size: int) -> None:
        self._take_child = child
        self._doubtful: set[Seat] = set()
        self.changed = threading.Condition()
        self.over = False
        self.seats = [Seat(self) for _ in range(size)]
        self.attempts: Sequence[Attempt] = ()
        self.child: Child | None = None
        self.next = None  # a gang claims nothing ahead

    @property
    def job_ids(self) -> list[str]:
        """The ids of the jobs."""
        return [job_id for attempt in self.attempts for job_id in attempt.job_ids]

    @property
    def all_ended(self) -> list[Job]:
        """The jobs as their attempts left them."""
        return [job for attempt in self.attempts for job in attempt.all_ended]

    def run(self) -> None:
        """Run all attempts to their ends."""
        threads = [
            threading.Thread(target=self._run_one, args=pair, name=f"gang-{number}", daemon=True)
            for number, pair in enumerate(zip(self.attempts, self.seats, strict=True))
        ]
        for thread in threads:
            thread.start()
        try:
            with self.changed:
                self.changed.wait_for(lambda: all(seat.order or seat.left for seat in self.seats))
                orders = {seat.order["order"]["job_id"]: seat for seat in self.seats if seat.order and not seat.left}
            if orders:
                self._train(orders)
        finally:
            with self.changed:
                self.over = True
                for seat in self.seats:
                    seat.ring()
            for thread in threads:
                thread.join()

    def tell(self, seat: Seat, **message: Any) -> None:
        """Send an order about one member; the lock keeps it from being written into another's."""
        with self.changed:
            if self.child is not None and seat.order and not self.over:
                self.child.send(job=seat.order["order"]["job_id"], **message)

    def doubt(self, seat: Seat, doubtful: bool) -> None:
        """Let the child stand still while any member does not know whether it may go on."""
        with self.changed:
            before = bool(self._doubtful)
            (self._doubtful.add if doubtful else self._doubtful.discard)(seat)
            if self.child is None or self.over or before == bool(self._doubtful):
                return
            if self._doubtful:
                self.child.suspend()
            else:
                self.child.resume()

    def _run_one(self, attempt: Attempt, seat: Seat) -> None:
        try:
            attempt.run()
        except Exception:
            log.exception("action=run_in_gang")  # its lease will end, and it be tried again
        finally:
            seat.kill()

    def _train(self, seats: dict[str, Seat]) -> None:
        child = self._take_child()
        child.idle_since = None
        with self.changed:
            self.child = child
            child.send(type="run_together", orders=[seat.order["order"] for seat in seats.values() if seat.order])
        if self._relay(child, seats):
            return
        with self.changed:
            self.child = None  # first, for nobody may speak to a child whose number is another's by now
        child.kill()
        with self.changed:
            for seat in seats.values():
                seat.tail, seat.ending = child.tail, child.how_it_ended()

    def _relay(self, child: Child, seats: dict[str, Seat]) -> bool:
        """Pass on what the child says; return whether it came to the end of the order."""
        deadline = float("inf")
        with selectors.DefaultSelector() as selector:
            selector.register(child.messages_fd, selectors.EVENT_READ)
            selector.register(child.output_fd, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(_LOOK_SECONDS)}
                if child.output_fd in ready and not child.read_output():
                    selector.unregister(child.output_fd)
                alive = child.alive  # looked at before its last messages are read
                for message in child.read_messages():
                    if message is None:
                        alive = False
                    elif message["type"] == "ended_together":
                        child.warm_base = message["warm_base"]
                        return True
                    else:
                        seats[message.pop("job")].deliver(message)
                if not alive:
                    return False
                if deadline == float("inf") and all(seat.left for seat in seats.values()):
                    deadline = clock.elapsed() + _END_SECONDS
                if clock.elapsed() > deadline:
                    return False


class Seat:
    """What one member's attempt takes for its child: the methods of :class:`process.Child` that are asked of one.

    To kill it is to leave: the others go on, and the process is ended once nobody is left whom it works for.
    """

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._inbox: collections.deque[dict[str, Any]] = collections.deque()
        self.messages_fd, self._bell = os.pipe()
        self.output_fd, unused = os.pipe()
        os.close(unused)  # what the child prints cannot be told apart, so the gang keeps it
        for fd in (self.messages_fd, self._bell):
            os.set_blocking(fd, False)
        self.order: dict[str, Any] | None = None
        self.left = False
        self.tail, self.ending = "", "the others it was trained with had ended"
        self.warm_base: str | None = None
        self.idle_since: float | None = None

    @property
    def alive(self) -> bool:
        """Whether anything more can come."""
        return bool(self._inbox) or not self._gang.over

    def deliver(self, message: dict[str, Any]) -> None:
        """Take a message of the child about this member."""
        with self._gang.changed:
            self._inbox.append(message)
            self.ring()

    def ring(self) -> None:
        """Wake the attempt; called with the gang's lock held."""
        if not self.left:
            with contextlib.suppress(BlockingIOError):
                os.write(self._bell, b"\0")

    def send(self, **message: Any) -> None:
        """Send one order: what to do, which waits for the others', or to stop."""
        if message["type"] == "run":
            with self._gang.changed:
                self.order = message
                self._gang.changed.notify_all()
        else:
            self._gang.tell(self, **message)

    def read_messages(self) -> Iterator[dict[str, Any] | None]:
        """Yield the messages that have arrived, and None at the end of all messages."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.messages_fd, 65_536)
        while self._inbox:
            yield self._inbox.popleft()
        if not self.alive:
            yield None

    def read_output(self) -> bool:
        """Return that nothing will come."""
        return False

    def resident_bytes(self) -> int:
        """Return the resident memory of the child that all share."""
        child = self._gang.child
        return child.resident_bytes() if child is not None else 0

    def suspend(self) -> None:
        """Let the child stand still."""
        self._gang.doubt(self, True)

    def resume(self) -> None:
        """Let the child go on as far as this member is concerned."""
        self._gang.doubt(self, False)

    def kill(self) -> None:
        """Leave; a second time does nothing."""
        if self.left:
            return
        self._gang.tell(self, type="stop", why="cancel")
        self._gang.doubt(self, False)
        with self._gang.changed:
            self.left = True
            for fd in (self.messages_fd, self._bell, self.output_fd):
                os.close(fd)
            self._gang.changed.notify_all()

    def how_it_ended(self) -> str:
        """Say in words how the process ended."""
        return self.ending
