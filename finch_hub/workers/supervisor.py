"""One attempt at one job: start or reuse a child, watch over it, and write down how it ended.

The child computes; only this side writes the database, and every write carries the attempt's fence.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.values import NewEvent, RetryPolicy
from finch_hub.specs.jobs import FINAL, Job
from finch_hub.workers import clock, faults, runs
from finch_hub.workers.lease import Lease
from finch_hub.workers.process import Child

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.workers.folders import WorkFolders
    from finch_hub.workers.redaction import Redactor
    from finch_hub.workers.stores import Stores

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5  # how often an attempt looks at its flags while its child is silent
_BATCH_SECONDS = 0.5  # events wait so long for company; followers look twice a second
_BATCH_EVENTS = 200
_MEASURE_SECONDS = 5.0
_CANCEL_GRACE = 4.0  # with a heartbeat of 5 s, a cancellation takes effect within 10 s


class Attempt:
    """Sees one claimed job through to a final state, or back into the queue.

    Arguments:
        job: as it was claimed.
        asked: when it was asked for, by :func:`clock.elapsed`.
        child: returns a child fit for the job; it is asked for only when the job is found to be sound.
        claim_next: claims another job for the child that is left, in the transaction that ends this attempt.
        stopping: set when the worker is to end: the job is handed back.

    """

    def __init__(
        self,
        job: Job,
        *,
        asked: float,
        stores: Stores,
        folders: WorkFolders,
        child: Callable[[], Child],
        claim_next: Callable[[Session, Child | None], Job | None],
        stopping: threading.Event,
        redactor: Redactor,
    ) -> None:
        self._job, self._stores, self._folders = job, stores, folders
        self._take_child, self._stopping, self._redactor = child, stopping, redactor
        self._claim_next = claim_next
        self._settings = stores.settings
        self._lease = Lease(stores.database, job, stores.settings, asked=asked)
        self._run: runs.Run = runs.run_of(job.kind)
        self._events: list[NewEvent] = []
        self._batch_began = 0.0
        self._told_to_stop: str | None = None
        self._stop_deadline = float("inf")
        self.child: Child | None = None
        self.ended: Job | None = None
        self.next: tuple[Job, float] | None = None

    def run(self) -> None:
        """Run the job to the end of this attempt.

        Leaves in `child` one that is fit for another job, in `next` a job that it claimed meanwhile with the moment it
        was asked for, and in `ended` the job as the attempt left it; None where that was no longer for it to say.
        """
        self._log("claimed")
        try:
            with self._lease:
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
        faults.at("supervisor.claimed")
        if self._stopping.is_set():
            self._write(lambda session: attempts.hand_back(session, job.id, job.fence))
            return
        finished = self._folders.outcome(job.id)
        if finished is not None:
            # An earlier attempt came as far as the result, but not to the commit.
            self._note(type="message", message="taking over what an earlier attempt finished")
            self._folders.forget_outcome(job.id)  # if it is of no use, the next attempt begins anew
            self._succeed(finished)
            return
        try:
            workdir = self._folders.begin(job.id, job.fence)
            order = self._run.prepare(job, self._stores, workdir) | {"workdir": str(workdir)}
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
        child.idle_since = None
        child.send(type="run", kind=job.kind, order=order)
        self._end(child, self._watch(child))

    def _watch(self, child: Child) -> dict[str, Any]:
        """Relay between child and database until the child says how it ended, or is ended."""
        heard = measured = clock.elapsed()
        with selectors.DefaultSelector() as selector:
            selector.register(child.messages_fd, selectors.EVENT_READ)
            selector.register(child.output_fd, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(self._patience())}
                # Before anything else: after a long pause (stopped, swapped out, asleep) the job may be another's.
                if self._lease.doubtful:
                    self._recover_lease(child)
                    heard = clock.elapsed()
                if child.output_fd in ready and not child.read_output():
                    selector.unregister(child.output_fd)
                # Looked at before its messages are read: a descendant may hold the pipe open, so it need not end.
                ended = not child.alive
                if child.messages_fd in ready:
                    heard = clock.elapsed()
                    for message in child.read_messages():
                        if message is None:
                            ended = True
                        elif message["type"] == "event":
                            self._note(**message["event"])
                        else:
                            return message
                if ended:
                    return {"type": "died"}
                self._flush(at_once=False)
                now = clock.elapsed()
                self._relay_stop(child, now)
                if now >= self._stop_deadline:
                    return {"type": "stopped", "why": self._told_to_stop, "killed": True}
                if now - heard > self._settings.stall_seconds:
                    return {"type": "hung", "reason": f"reported nothing for {self._settings.stall_seconds:g} s"}
                if now - measured > _MEASURE_SECONDS:
                    measured = now
                    if (used := child.resident_bytes()) > self._memory_limit():
                        return {"type": "hung", "reason": f"used {used:,} bytes of memory, more than allowed"}

    def _end(self, child: Child, message: dict[str, Any]) -> None:
        """Write down how it ended."""
        faults.at("supervisor.ending")
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
                self._fail(message["reason"], retry=message["retry"])
            case "stopped":
                if message.get("killed"):
                    self._kill()
                if message["why"] == "cancel":
                    self._write(lambda session: attempts.cancelled(session, job.id, job.fence))
                else:
                    self._write(lambda session: attempts.hand_back(session, job.id, job.fence))
            case "hung":
                tail = self._kill()
                self._fail(f"the process {message['reason']} and was ended", retry=True, tail=tail)
            case "died":
                how = child.how_it_ended()
                tail = self._kill()
                self._fail(f"the process ended by itself ({how})", retry=True, tail=tail)

    def _succeed(self, outcome: dict[str, Any]) -> None:
        job = self._job
        try:
            stored = self._run.store(job, outcome, self._stores)
            faults.at("supervisor.stored")
        except errors.FinchError as error:
            self._fail(str(error), retry=isinstance(error, errors.Unavailable))
            return
        except OSError as error:
            self._fail(f"cannot store the result: {error}", retry=True)
            return

        def record(session: Session) -> Job:
            result = self._run.record(session, job, outcome, stored)
            return attempts.succeed(session, job.id, job.fence, result)

        try:
            self._write(record)
        except errors.CancelRequested:
            # Somebody asked while it was finishing; what it made is undone with the transaction.
            self._write(lambda session: attempts.cancelled(session, job.id, job.fence))
        except errors.StaleFence:
            raise
        except errors.FinchError as error:
            self._fail(str(error), retry=False)

    def _fail(self, reason: str, *, retry: bool, tail: str = "") -> None:
        job = self._job
        reason = self._redactor.clean(reason)
        if tail:
            self._note(type="message", level="error", message=f"the last that it printed:\n{tail}")
        policy = None
        if retry:
            policy = RetryPolicy(max_attempts=self._settings.max_attempts, base_delay=self._settings.retry_seconds)
        self._write(lambda session: attempts.fail(session, job.id, job.fence, reason, retry=policy))

    def _write(self, change: Callable[[Session], Job]) -> None:
        """Make the attempt's last write, with the events that are left; waits for a database that is away.

        The next claim goes with it: one commit for a job instead of two.
        """
        while True:
            asked = clock.elapsed()
            try:
                with self._stores.database.write() as session:
                    self._append(session)
                    self.ended = change(session)
                    following = self._claim_next(session, self.child)
                    faults.at("supervisor.committing")
                break
            except errors.SchemaMismatch:
                raise
            except errors.Unavailable as error:
                self._log("write", logging.WARNING, error=error)
                time.sleep(1.0)
        self.next = None if following is None else (following, asked)
        faults.at("supervisor.committed")
        self._events.clear()
        self._log(f"ended state={self.ended.state.value}", error=self.ended.reason or "")
        if self.ended.state in FINAL:
            self._folders.end(self._job.id)

    def _note(self, **event: Any) -> None:
        if not self._events:
            self._batch_began = time.monotonic()
        if event.get("message"):
            event["message"] = self._redactor.clean(event["message"])
        self._events.append(NewEvent(**event))

    def _flush(self, *, at_once: bool) -> None:
        """Append the events that have waited long enough; while the database is away they wait on."""
        due = len(self._events) >= _BATCH_EVENTS or time.monotonic() - self._batch_began >= _BATCH_SECONDS
        if self._events and (due or at_once):
            try:
                with self._stores.database.write() as session:
                    self._append(session)
                self._events.clear()
            except errors.Unavailable as error:
                self._log("append_events", logging.WARNING, error=error)
                self._batch_began = time.monotonic()

    def _append(self, session: Session) -> None:
        if self._events:
            attempts.append_events(session, self._job.id, self._job.fence, self._events)

    def _patience(self) -> float:
        if not self._events:
            return _LOOK_SECONDS
        return max(0.01, self._batch_began + _BATCH_SECONDS - time.monotonic())

    def _recover_lease(self, child: Child) -> None:
        """Get the lease again before the child goes on; it stands still while nobody can say whose the job is.

        Raises:
            StaleFence: the job is another's.

        """
        self._log("lease in doubt", logging.WARNING)
        child.suspend()
        while True:
            try:
                self._lease.renew()
                break
            except errors.Unavailable:
                time.sleep(1.0)
        child.resume()

    def _relay_stop(self, child: Child, now: float) -> None:
        if self._told_to_stop:
            return
        if self._lease.cancel_requested:
            self._told_to_stop, self._stop_deadline = "cancel", now + min(_CANCEL_GRACE, self._settings.grace_seconds)
        elif self._stopping.is_set():
            self._told_to_stop, self._stop_deadline = "hand_back", now + self._settings.grace_seconds
        else:
            return
        self._log(f"stop why={self._told_to_stop}")
        child.send(type="stop", why=self._told_to_stop)

    def _memory_limit(self) -> int:
        from finch_hub.workers import devices

        return self._settings.memory_bytes or int(devices.main_memory() * 0.9)

    def _kill(self) -> str:
        """End the child and return the last that it printed."""
        child, self.child = self.child, None
        if child is None:
            return ""
        child.kill()
        return self._redactor.clean(child.tail)

    def _log(self, action: str, level: int = logging.INFO, *, error: object = "") -> None:
        text = f" error={error}" if error else ""
        log.log(
            level, "action=%s job_id=%s attempt=%d fence=%d%s", action, self._job.id, self._job.attempts,
            self._job.fence, text,
        )  # fmt: skip
