"""One attempt at one job: prepare it, run it in a child process, and record how it ended.

The child computes. Only the supervisor writes to the database.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from finch_hub import errors, progress
from finch_hub.registry.database import Session
from finch_hub.specs.jobs import Job, JobSpec
from finch_hub.specs.value import JsonObject, Value
from finch_hub.workers.logs.context import identify, log_fields
from finch_hub.workers.runs import kinds
from finch_hub.workers.runs.job_kind import JobKind
from finch_hub.workers.supervision import clock, fault_points, instruments
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.attempt_record import AttemptRecord
from finch_hub.workers.supervision.child_watch import POLL_SECONDS, ChildWatch
from finch_hub.workers.supervision.lease import ClaimedJob, Lease, StopReason
from finch_hub.workers.supervision.process import ChildProcess
from finch_hub.workers.supervision.shared_checkpoint import SharedCheckpoint

log = logging.getLogger(__name__)

T = TypeVar("T")

_REPORTED = frozenset({"environment", "metrics", "report"})  # fields of outcomes that plugins add to
_SIGNALS_SECONDS = 1.0  # between the signals of a service manager to the processes of a worker


class _Stopped(Exception):
    """The attempt must stop while it waits for a blocking call."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


class Attempt:
    """Brings one claimed job to a final state, or back into the queue.

    Args:
        take_child: returns a child for the job. It is called after the job was prepared without errors.
        claim_next: claims another job for the child that is left, with a token, in the transaction that ends this
            attempt. None for a member of a group. The child works for other jobs too, so its failure may not be this
            job's fault.
        memory_limit: bytes of main memory that the child may use.

    Attributes:
        child: after `run`, a child that is fit for another job.
        ended_jobs: after `run`, the job as the attempt left it; empty if another attempt owned it by then.
        next_job: after `run`, the job that `claim_next` claimed.
    """

    def __init__(
        self,
        claimed: ClaimedJob,
        context: AttemptContext,
        *,
        take_child: Callable[[], ChildProcess],
        claim_next: Callable[[Session, ChildProcess | None, str], Job | None] | None,
        memory_limit: int,
    ) -> None:
        self._claimed, self._job, self._context = claimed, claimed.job, context
        self._settings, self._take_child, self._claim_next = context.stores.settings, take_child, claim_next
        self._memory_limit = memory_limit
        self._lease: Lease
        self._checkpoint: SharedCheckpoint
        self._has_run = False  # whether a child of this attempt ran to its end
        self._stop_by = float("-inf")  # end of the child's grace
        self._kind: JobKind[Any, Any, Any]
        self._spec: JobSpec
        self.job_ids = [claimed.job.id]
        self.child: ChildProcess | None = None
        self.ended_jobs: list[Job] = []
        self.next_job: ClaimedJob | None = None

    def run(self) -> None:
        """Run the job to the end of this attempt."""
        with log_fields(**identify(self._job)), self._context.leases.hold(self._claimed) as self._lease:
            claim_next = self._claim_next or (lambda session, child, token: None)
            record = AttemptRecord(
                self._context,
                self._job,
                self._lease,
                claim_next=lambda session, token: claim_next(session, self.child, token),
            )
            self._checkpoint = SharedCheckpoint(self._context, self._job, record)
            record.log("claimed")
            began = clock.elapsed()
            instruments.ATTEMPTS_STARTED.labels(self._job.kind).inc()
            try:
                self._run(record)
            except errors.StaleFence:
                # Another attempt owns the job, so nothing of this one may count or go on.
                record.log("lost", logging.WARNING)
                self._kill()
            except BaseException:
                self._kill()
                raise
            finally:
                self._context.events.forget(self._job)  # if the attempt wrote no end
                instruments.count_end(self._job.kind, record.outcome, clock.elapsed() - began)
                self.ended_jobs = [] if record.ended_job is None else [record.ended_job]
                for ended in self.ended_jobs:
                    self._checkpoint.end(ended)
                self.next_job = record.next_job

    def _run(self, record: AttemptRecord) -> None:
        job, folders = self._job, self._context.folders
        fault_points.reach("supervisor.claimed")
        if reason := self._lease.stop_reason():
            self._stop(record, reason)
            return
        try:
            self._kind = kind = kinds.kind_of(job.kind)
            self._spec = kind.spec_of(job.spec)
        except (errors.NotFound, errors.InvalidSpec) as error:  # another version may have submitted it, and can read it
            record.set_aside(str(error))
            return
        if unknown := kind.list_unknown(job.spec):
            text = f"finch-hub {kinds.VERSION} passes over fields of the specification that it does not know:"
            record.add_message(f"{text} {', '.join(unknown)}", level="warn")
        try:
            outcome = None
            if job.fence > 1:
                doing = "looking for the result of an earlier attempt"
                outcome = self._call(doing, lambda: folders.read_outcome(job.id, kind.outcome))
            if outcome is None:
                workdir, order = self._call("preparing the job", self._prepare)
                if self._checkpoint.is_expected:
                    self._fetch_checkpoint(record)
        except _Stopped as stopped:
            self._stop(record, stopped.reason)
            return
        except errors.StaleFence:
            raise
        except errors.FinchError as error:
            self._fail(record, error)
            return
        except OSError as error:
            self._fail_here(record, f"could not prepare the job: {error}")
            return
        except (Exception, SystemExit) as error:
            self._fail_by_defect(record, error, action="prepare")
            return
        if outcome is not None:
            record.add_message("using the result that an earlier attempt did not commit")
            with contextlib.suppress(OSError):
                folders.forget_outcome(job.id)  # if this result is of no use, the next attempt begins anew
            self._succeed(record, outcome)
            return
        try:
            self.child = child = self._take_child()
        except OSError as error:
            self._fail_here(record, f"could not start a child process: {error}")
            return
        self._lease.guard(child)
        child.idle_since = None
        child.send(type="run", kind=job.kind, job_id=job.id, workdir=str(workdir), order=order.model_dump(mode="json"))
        watch = ChildWatch(
            child, self._lease, record, self._checkpoint, self._settings, memory_limit=self._memory_limit
        )
        message = watch.run()
        self._stop_by = min(watch.stop_deadline, self._lease.elapsed() + self._settings.grace_seconds)
        self._end(record, child, message)

    def _prepare(self) -> tuple[Path, Value]:
        """Return the folder of the attempt and the order for the child."""
        workdir = self._context.folders.begin(self._job.id, self._job.fence)
        return workdir, self._kind.prepare(self._spec, self._job, self._context.stores, workdir)

    def _call(self, doing: str, call: Callable[[], T]) -> T:
        """Make a blocking call in another thread, and stop waiting if the attempt must stop or the call hangs.

        A call that tells its progress does not hang, such as one that stores large files. A call that hangs does no
        harm. It writes to this attempt's folder and to the artifact store, where equal bytes have equal places.
        """
        advanced_at, stall_seconds = self._lease.elapsed(), self._settings.stall_seconds

        def note_advance(advance: progress.Advance) -> None:
            nonlocal advanced_at
            advanced_at = self._lease.elapsed()

        def call_with_listener() -> T:
            with progress.listen(note_advance):
                return call()

        future = self._context.blocking_calls.start(call_with_listener)
        while True:
            with contextlib.suppress(TimeoutError):
                future.exception(POLL_SECONDS)  # waits without raising the call's error
            if future.done():
                return future.result()
            self._lease.recover()
            if reason := self._lease.stop_reason():
                raise _Stopped(reason)
            if self._lease.elapsed() - advanced_at > stall_seconds:
                self._context.readiness.add_store_trouble()  # perhaps
                if self._context.readiness.check_store():
                    raise errors.Unavailable(f"{doing} took more than {stall_seconds:g} s")
                raise errors.StoreUnavailable(f"{doing} took more than {stall_seconds:g} s: the store is not well")

    def _fetch_checkpoint(self, record: AttemptRecord) -> None:
        """Fetch the checkpoint of another machine. Without it the job begins anew, unless the store is away for all."""
        try:
            self._call("fetching the checkpoint", self._checkpoint.fetch)
        except (errors.Unavailable, errors.RefusedArtifact, errors.MissingArtifact, OSError) as error:
            if isinstance(error, errors.StoreUnavailable):
                self._context.readiness.add_store_trouble()
                if not self._context.readiness.check_store():
                    raise
            record.add_message(f"could not fetch the checkpoint of another machine: {error}", level="warn")

    def _end(self, record: AttemptRecord, child: ChildProcess, message: JsonObject) -> None:
        """Record how the child ended, as :meth:`ChildWatch.run` returned it, and kill a child that is unfit."""
        fault_points.reach("supervisor.ending")
        match message["type"]:
            case "done":
                child.warm_base = message["warm_base"]
                outcome = message["outcome"]
                for name in _REPORTED & outcome.keys():
                    outcome[name] = self._context.redactor.clean_values(outcome[name])
                self._keep_outcome(outcome)
                self._has_run = True
                if message.get("spent"):
                    self._kill()
                self._succeed(record, outcome)
            case "failed":
                if message["traceback"]:
                    record.add_message(message["traceback"], level="error")
                self._kill()  # the failure may have left the process in a state that spoils the next job
                if message["traceback"] or message["retry"]:
                    self._fail_process(
                        record,
                        message["reason"],
                        retry=message["retry"],
                        is_fault_of_worker=message["of_worker"],
                        is_of_any_job=message["of_any_job"],
                    )
                else:
                    record.fail(message["reason"], retry=False, unusable=message["unusable"])
            case "stopped":
                if message.get("killed") or message.get("spent"):
                    self._kill()
                self._stop(record, message["why"])
            case "hung":
                self._fail_process(record, f"the child process {message['reason']} and was killed", tail=self._kill())
            case "died":
                if (stopping := self._find_stop(child)) is not None:
                    self._kill()
                    self._stop(record, stopping)
                    return
                reason = f"the child process exited unexpectedly ({child.describe_end()})"
                has_started = child.has_started
                self._fail_process(record, reason, tail=self._kill(), is_fault_of_worker=not has_started)

    def _find_stop(self, child: ChildProcess) -> StopReason | None:
        """Return why the attempt was to stop when its child died, None if it was not.

        A service manager signals all processes of a service, and perhaps the child first.
        """
        deadline = time.monotonic() + (_SIGNALS_SECONDS if child.describe_end() in ("SIGTERM", "SIGHUP") else 0.0)
        while (reason := self._lease.stop_reason()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return reason

    def _stop(self, record: AttemptRecord, reason: StopReason) -> None:
        """Record that the attempt stopped early."""
        match reason:
            case "cancel":
                record.cancel()
            case "hand_back":
                self._checkpoint.finish(self._stop_by - self._lease.elapsed())
                record.hand_back()
            case "time_limit":
                limit = self._job.requirements.time_limit
                text = f"the job did not finish within its time limit of {limit:g} s"
                record.fail(f"{text} (submit it again with a longer limit or less work)", retry=False)

    def _succeed(self, record: AttemptRecord, outcome: JsonObject | Value) -> None:
        """Store what the child made, and record that the job succeeded."""
        kind = self._kind
        try:
            made = kind.outcome.of(outcome, subject=f"{kind.name} outcome")
            record_result = made.record
            if kind.finish is not None and made.needs_storing:
                finish = functools.partial(kind.finish, self._spec, self._job, made, self._context.stores)
                record_result = self._call("storing the result", finish)
            fault_points.reach("supervisor.stored")
            self._note_success()
            record.succeed(record_result)
        except _Stopped as stopped:
            self._stop(record, stopped.reason)
        except errors.StaleFence:
            raise
        except errors.FinchError as error:
            if isinstance(error, errors.StoreUnavailable):  # this worker may be the next to try
                self._keep_outcome(outcome.model_dump(mode="json") if isinstance(outcome, Value) else outcome)
            else:
                self._note_success()
            self._fail(record, error)
        except OSError as error:
            self._fail_here(record, f"could not store the result: {error}")
        except (Exception, SystemExit) as error:
            self._fail_by_defect(record, error, action="store")

    def _keep_outcome(self, outcome: JsonObject) -> None:
        """Keep the outcome for the next attempt. Without it the child runs again, so a full disk does no harm."""
        with contextlib.suppress(OSError):
            self._context.folders.keep_outcome(self._job.id, outcome)

    def _note_success(self) -> None:
        """Note that the worker is well if a child of this attempt ran to its end, and what it made can be stored."""
        if self._has_run:
            self._context.readiness.add_success()

    def _fail(self, record: AttemptRecord, error: errors.FinchError) -> None:
        """Record an error of a step of the supervisor. An artifact that is missing here may be elsewhere."""
        if isinstance(error, errors.StoreUnavailable | errors.MissingArtifact):
            self._context.readiness.add_store_trouble()
            record.pass_on(str(error), alone="wait" if isinstance(error, errors.StoreUnavailable) else "fail")
        else:
            record.fail(str(error), retry=isinstance(error, errors.Unavailable))

    def _fail_by_defect(self, record: AttemptRecord, error: BaseException, *, action: str) -> None:
        """Record an error of a plugin's descriptor, or a defect. The worker goes on."""
        log.error(action, extra=identify(self._job), exc_info=error)
        record.fail(f"{type(error).__name__}: {error}", retry=False)

    def _fail_here(self, record: AttemptRecord, reason: str, *, is_of_any_job: bool = True) -> None:
        """Record a fault of this worker, so that another one tries the job.

        Args:
            is_of_any_job: whether other jobs would fail here too, so that the worker becomes suspect.
        """
        readiness = self._context.readiness
        if is_of_any_job:
            is_suspect = readiness.add_fault(self._job.id, self._context.redactor.clean(reason))
        else:
            is_suspect = readiness.remark is not None
        record.pass_on(reason, alone="wait" if is_suspect else "retry")

    def _fail_process(
        self,
        record: AttemptRecord,
        reason: str,
        *,
        retry: bool = True,
        tail: str = "",
        is_fault_of_worker: bool = False,
        is_of_any_job: bool = True,
    ) -> None:
        """Record that the child process failed. A job of a group is tried again alone and loses no attempt."""
        if tail:
            record.add_message(f"last output of the child process:\n{tail}", level="error")
        if self._claim_next is None:
            record.add_message(f"will be trained alone, since the training of the group failed: {reason}", level="warn")
            record.hand_back(alone=reason)
        elif is_fault_of_worker:
            self._fail_here(record, reason, is_of_any_job=is_of_any_job)
        else:
            record.fail(reason, retry=retry)

    def _kill(self) -> str:
        """Kill the child and return the end of its output."""
        child, self.child = self.child, None
        if child is None:
            return ""
        self._lease.guard(None)  # another process may get its process id
        child.kill()
        return self._context.redactor.clean(child.last_output())
