"""One attempt at one job: start or reuse a child, watch over it, and write down how it ended.

The child computes; only this side writes the database, and every write carries the attempt's fence.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.values import RetryPolicy
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job
from finch_hub.workers import runs
from finch_hub.workers.supervision import clock, fault_points
from finch_hub.workers.supervision.lease import Lease, Leases
from finch_hub.workers.supervision.process import Child

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.redaction import Redactor
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.supervision.blocking_calls import Helpers
    from finch_hub.workers.supervision.group import Seat
    from finch_hub.workers.supervision.work_folders import WorkFolders

log = logging.getLogger(__name__)

T = TypeVar("T")
Stop = Literal["cancel", "hand_back", "time_limit"]

_LOOK_SECONDS = 0.5  # how often an attempt looks at its flags while its child is silent
_BATCH_SECONDS = 0.5  # events wait so long for company; followers look twice a second
_BATCH_EVENTS = 200
_MEASURE_SECONDS = 5.0
_CANCEL_GRACE = 4.0  # with a heartbeat of 5 s, a cancellation takes effect within 10 s


class _Stopped(Exception):
    """The supervisor's own part of the work is not to go on."""

    def __init__(self, why: Stop) -> None:
        super().__init__(why)
        self.why: Stop = why


class Attempt:
    """Sees one claimed job through to a final state, or back into the queue.

    Args:
        job: as it was claimed.
        asked: when it was asked for, by :func:`clock.elapsed`.
        child: returns a child fit for the job; it is asked for only when the job is found to be sound.
        claim_next: claims another job for the child that is left, in the transaction that ends this attempt.
        stopping: set when the worker is to end: the job is handed back.
        memory_limit: bytes of main memory that the child may use.
        shared: the child works for other jobs too, so what ends it may not be this one's fault.

    """

    def __init__(
        self,
        job: Job,
        *,
        asked: float,
        stores: Stores,
        leases: Leases,
        folders: WorkFolders,
        helpers: Helpers,
        child: Callable[[], Child | Seat],
        claim_next: Callable[[Session, Child | Seat | None], Job | None],
        stopping: threading.Event,
        redactor: Redactor,
        memory_limit: int,
        shared: bool = False,
    ) -> None:
        self._job, self._asked = job, asked
        self._stores, self._leases, self._folders, self._helpers = stores, leases, folders, helpers
        self._take_child, self._stopping, self._redactor = child, stopping, redactor
        self._claim_next = claim_next
        self._memory_limit, self._shared = memory_limit, shared
        self._settings = stores.settings
        self._lease: Lease
        self._began = 0.0  # by the lease's clock, as all moments here are
        self._run: runs.Run = runs.run_of(job.kind)
        self._events: list[NewEvent] = []
        self._batch_began = 0.0
        self._told_to_stop: Stop | None = None
        self._stop_deadline = float("inf")
        self.child: Child | Seat | None = None
        self.ended: Job | None = None
        self.next: tuple[Job, float] | None = None

    @property
    def job_ids(self) -> list[str]:
        """The job's id, as a list."""
        return [self._job.id]

    @property
    def all_ended(self) -> list[Job]:
        """What `ended` holds, as a list."""
        return [] if self.ended is None else [self.ended]

    def run(self) -> None:
        """Run the job to the end of this attempt.

        Leaves in `child` one that is fit for another job, in `next` a job that it claimed meanwhile with the moment it
        was asked for, and in `ended` the job as the attempt left it; None where that was no longer for it to say.
        """
        self._log("claimed")
        with self._leases.hold(self._job, asked=self._asked) as self._lease:
            self._began = self._lease.elapsed()
            try:
                self._run_claimed()
            except errors.StaleFence:
                # Somebody else owns the job by now. Nothing of ours may count, so nothing of ours may go on.
                self._log("lost", logging.WARNING)
                self._kill()
            except BaseException:
                self._kill()
                raise

    def _run_claimed(self) -> None:
        job = self._job
        fault_points.at("supervisor.claimed")
        if self._stopping.is_set():
            self._write(lambda session: attempts.hand_back(session, job.id, job.fence, told=self._events))
            return
        finished = self._folders.outcome(job.id) if job.fence > 1 else None
        if finished is not None:
            # An earlier attempt came as far as the result, but not to the commit.
            self._note(type="message", message="taking over what an earlier attempt finished")
            self._folders.forget_outcome(job.id)  # if it is of no use, the next attempt begins anew
            self._succeed(finished)
            return
        try:
            workdir = self._folders.begin(job.id, job.fence)
            order = self._aside("preparing the job", lambda: self._run.prepare(job, self._stores, workdir))
        except _Stopped as stopped:
            self._stopped(stopped.why)
            return
        except errors.FinchError as error:
            self._fail(str(error), retry=isinstance(error, errors.Unavailable))
            return
        except OSError as error:
            self._fail(f"cannot prepare the job: {error}", retry=True)
            return
        except (Exception, SystemExit) as error:  # a plugin's descriptor or a defect of ours: the worker lives on
            log.exception("action=prepare job_id=%s attempt=%d", job.id, job.attempts)
            self._fail(f"{type(error).__name__}: {error}", retry=False)
            return
        self.child = child = self._take_child()
        self._lease.guard(child)
        child.idle_since = None
        child.send(type="run", kind=job.kind, order=order | {"job_id": job.id, "workdir": str(workdir)})
        self._end(child, self._watch(child))

    def _aside(self, what: str, work: Callable[[], T]) -> T:
        """Have a helper do what waits for stores, and stop waiting when it must not go on or takes too long.

        One that hangs does no harm: it writes to the folder of this attempt and to the artefact store, where the same
        bytes have the same place.
        """
        future = self._helpers.run(work)
        began = self._lease.elapsed()
        while True:
            with contextlib.suppress(TimeoutError):
                future.exception(_LOOK_SECONDS)  # waits, and raises nothing of the work's
            if future.done():
                return future.result()
            if self._lease.doubted():
                self._recover_lease()
            now = self._lease.elapsed()
            if why := self._must_stop(now):
                raise _Stopped(why)
            if now - began > self._settings.stall_seconds:
                raise errors.Unavailable(f"{what} took more than {self._settings.stall_seconds:g} s")

    def _watch(self, child: Child | Seat) -> dict[str, Any]:
        """Relay between child and database until the child says how it ended, or is ended."""
        heard = measured = self._lease.elapsed()
        # Plain polling: this thread gives up the interpreter at each call of the system, and gets it back in its turn.
        with selectors.PollSelector() as selector:
            selector.register(child.messages_fd, selectors.EVENT_READ)
            selector.register(child.output_fd, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(self._patience())}
                # Before anything else: after a long pause (stopped, swapped out, asleep) the job may be another's.
                if self._lease.doubted():
                    self._recover_lease()
                if child.output_fd in ready and not child.read_output():
                    selector.unregister(child.output_fd)
                # While messages come it is not asked. A descendant may hold the pipe open, so that need not end.
                ended = child.messages_fd not in ready and not child.alive
                if child.messages_fd in ready or ended:  # its last words may have come after the look
                    heard = self._lease.elapsed()
                    for message in child.read_messages():
                        if message is None:
                            ended = True
                        elif message["type"] == "event":
                            self._note(**message["event"])
                        else:
                            return message
                if ended:
                    return {"type": "died"}
                self._flush()
                now = self._lease.elapsed()
                self._relay_stop(child, now)
                if now >= self._stop_deadline:
                    return {"type": "stopped", "why": self._told_to_stop, "killed": True}
                if now - heard > self._settings.stall_seconds:
                    return {"type": "hung", "reason": f"reported nothing for {self._settings.stall_seconds:g} s"}
                if now - measured > _MEASURE_SECONDS:
                    measured = now
                    if (used := child.resident_bytes()) > self._memory_limit:
                        reason = f"used {used:,} bytes of memory, more than the {self._memory_limit:,} allowed"
                        return {"type": "hung", "reason": reason}

    def _end(self, child: Child | Seat, message: dict[str, Any]) -> None:
        """Write down how it ended."""
        fault_points.at("supervisor.ending")
        job = self._job
        match message["type"]:
            case "done":
                child.warm_base = message["warm_base"]
                self._folders.keep_outcome(job.id, message["outcome"])
                self._succeed(message["outcome"])
            case "failed":
                if message["traceback"]:
                    self._note(type="message", level="error", message=message["traceback"])
                self._kill()  # whatever the failure left in that process shall not meet another job
                if message["traceback"] or message["retry"]:
                    self._fail_perhaps_shared(message["reason"], retry=message["retry"])
                else:
                    self._fail(message["reason"], retry=False)
            case "stopped":
                if message.get("killed"):
                    self._kill()
                self._stopped(self._told_to_stop or message["why"])
            case "hung":
                tail = self._kill()
                self._fail_perhaps_shared(f"the process {message['reason']} and was ended", tail=tail)
            case "died":
                how = child.how_it_ended()
                tail = self._kill()
                self._fail_perhaps_shared(f"the process ended by itself ({how})", tail=tail)

    def _stopped(self, why: Stop) -> None:
        """Write down that the job was told to stop, and did."""
        job = self._job
        match why:
            case "cancel":
                self._write(lambda session: attempts.cancelled(session, job.id, job.fence, told=self._events))
            case "hand_back":
                self._write(lambda session: attempts.hand_back(session, job.id, job.fence, told=self._events))
            case "time_limit":
                limit = job.requirements.time_limit
                reason = f"it was not done within its time limit of {limit:g} s"
                self._fail(f"{reason}: submit it again with a longer one, or with less to do", retry=False)

    def _succeed(self, outcome: dict[str, Any]) -> None:
        job, run, stored = self._job, self._run, {}
        try:
            if isinstance(run, runs.StoringRun):
                stored = self._aside("storing the result", lambda: run.store(job, outcome, self._stores))
            fault_points.at("supervisor.stored")
        except _Stopped as stopped:
            self._stopped(stopped.why)
            return
        except errors.FinchError as error:
            self._fail(str(error), retry=isinstance(error, errors.Unavailable))
            return
        except OSError as error:
            self._fail(f"cannot store the result: {error}", retry=True)
            return

        def record(session: Session) -> Job:
            result = run.record(session, job, outcome, stored)
            return attempts.succeed(session, job.id, job.fence, result, told=self._events)

        try:
            self._write(record)
        except errors.CancelRequested:
            # Somebody asked while it was finishing; what it made is undone with the transaction.
            self._write(lambda session: attempts.cancelled(session, job.id, job.fence, told=self._events))
        except errors.StaleFence:
            raise
        except errors.FinchError as error:
            self._fail(str(error), retry=False)

    def _fail_perhaps_shared(self, reason: str, *, retry: bool = True, tail: str = "") -> None:
        """End the attempt after a failure of the process; in a shared one the job is tried again alone, uncharged."""
        if tail:
            self._note(type="message", level="error", message=f"the last that it printed:\n{tail}")
        if not self._shared:
            self._fail(reason, retry=retry)
            return
        job, reason = self._job, self._redactor.clean(reason)
        text = f"to be trained alone, since what it was trained together with failed: {reason}"
        self._note(type="message", level="warn", message=text)
        told = self._events
        self._write(lambda session: attempts.hand_back(session, job.id, job.fence, alone=reason, told=told))

    def _fail(self, reason: str, *, retry: bool) -> None:
        job = self._job
        reason = self._redactor.clean(reason)
        policy = None
        if retry:
            policy = RetryPolicy(max_attempts=self._settings.max_attempts, base_delay=self._settings.retry_seconds)
        told = self._events
        self._write(lambda session: attempts.fail(session, job.id, job.fence, reason, retry=policy, told=told))

    def _write(self, change: Callable[[Session], Job]) -> None:
        """Make the attempt's last write, which tells the events that are left; waits for a database that is away.

        The next claim goes with it: one commit for a job instead of two.
        """
        begun = clock.elapsed()
        while True:
            asked = clock.elapsed()
            try:
                with self._stores.database.write() as session:
                    ended = change(session)
                    following = self._claim_next(session, self.child)
                    fault_points.at("supervisor.committing")
                break
            except errors.SchemaMismatch:
                raise
            except errors.Unavailable as error:
                self._log("write", logging.WARNING, error=error)
                self._wait_for_database(begun)
        self.ended = ended  # only now: what was undone, and then refused, is not for this attempt to tell
        self.next = None if following is None else (following, asked)
        fault_points.at("supervisor.committed")
        self._events.clear()
        if self.ended.reason:  # the built-in listener logs the rest
            self._log(f"ended state={self.ended.state.value}", error=self.ended.reason)

    def _note(self, **event: Any) -> None:
        if not self._events:
            self._batch_began = time.monotonic()
        if event.get("message"):
            event["message"] = self._redactor.clean(event["message"])
        self._events.append(NewEvent(**event))

    def _flush(self) -> None:
        """Append the events that have waited long enough; while the database is away they wait on."""
        due = len(self._events) >= _BATCH_EVENTS or time.monotonic() - self._batch_began >= _BATCH_SECONDS
        if self._events and due:
            try:
                with self._stores.database.write() as session:
                    attempts.append_events(session, self._job.id, self._job.fence, self._events)
                self._events.clear()
            except errors.Unavailable as error:
                self._log("append_events", logging.WARNING, error=error)
                self._batch_began = time.monotonic()

    def _patience(self) -> float:
        if not self._events:
            return _LOOK_SECONDS
        return max(0.01, self._batch_began + _BATCH_SECONDS - time.monotonic())

    def _recover_lease(self) -> None:
        """Get the lease again; the child stands still while nobody can say whose the job is.

        Raises:
            StaleFence: the job is another's.

        """
        begun = clock.elapsed()
        while self._lease.doubted():
            try:
                self._lease.renew()
            except errors.Unavailable:
                self._wait_for_database(begun)

    def _wait_for_database(self, begun: float) -> None:
        """Wait a little for a database that is away; a worker that is to end does so after its grace.

        Raises:
            StaleFence: it ends, and leaves the job to the end of its lease.

        """
        if self._stopping.is_set() and clock.elapsed() - begun > self._settings.grace_seconds:
            raise errors.StaleFence(self._job.id, self._job.fence)
        time.sleep(1.0)

    def _must_stop(self, now: float) -> Stop | None:
        limit = self._job.requirements.time_limit
        if self._lease.cancel_requested:
            return "cancel"
        if self._stopping.is_set():
            return "hand_back"
        return "time_limit" if limit is not None and now - self._began > limit else None

    def _relay_stop(self, child: Child | Seat, now: float) -> None:
        if self._told_to_stop or not (why := self._must_stop(now)):
            return
        grace = self._settings.grace_seconds
        self._told_to_stop = why
        self._stop_deadline = now + (grace if why == "hand_back" else min(_CANCEL_GRACE, grace))
        self._log(f"stop why={why}")
        child.send(type="stop", why="hand_back" if why == "hand_back" else "cancel")

    def _kill(self) -> str:
        """End the child and return the last that it printed."""
        child, self.child = self.child, None
        if child is None:
            return ""
        self._lease.guard(None)  # its process id may soon be somebody else's
        child.kill()
        return self._redactor.clean(child.tail)

    def _log(self, action: str, level: int = logging.INFO, *, error: object = "") -> None:
        text = f" error={error}" if error else ""
        log.log(
            level, "action=%s job_id=%s attempt=%d fence=%d%s", action, self._job.id, self._job.attempts,
            self._job.fence, text,
        )  # fmt: skip
