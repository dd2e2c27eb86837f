"""Jobs as their submitters use them: waited for, followed, cancelled, retried."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, cast

from typing_extensions import TypeVar  # PEP 696: a parameter with a default, which Python 3.11 lacks

from finch_hub import errors
from finch_hub.formats.output_paths import find_output
from finch_hub.hub import waiting
from finch_hub.registry import (
    adapter_versions,
    attempts,
    evidence,
    jobs,
    owner_limits,
    placement,
    queue_status,
    settlements,
    stuck_jobs,
    values,
    workers,
)
from finch_hub.specs.events import Event
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.former_names import accept_former_names
from finch_hub.specs.jobs import FINAL, Job, JobResult, JobSpec, JobState, OutputSpec, find_target
from finch_hub.specs.options import is_in_command
from finch_hub.specs.value import Value
from finch_hub.storage import outputs
from finch_hub.storage.changes import changing
from finch_hub.storage.store_sweep import OUTPUT_SECONDS
from finch_hub.texts.summaries import Summarized
from finch_hub.workers.runs import kinds

if TYPE_CHECKING:
    from finch_hub.display.progress import View
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher
    from finch_hub.workers.runs.job_kind import JobKind

T = TypeVar("T")
ResultT_co = TypeVar("ResultT_co", bound=Value, default=Value, covariant=True)
ReportT_co = TypeVar("ReportT_co", bound=Value, default=Value, covariant=True)

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
_ENSURE_SECONDS = 10.0
_PAGE_SIZE = 500
_DAY_SECONDS = 86_400


class JobHandle(Summarized, Generic[ResultT_co, ReportT_co]):
    """Handle of a submitted job, typed by what the job makes and by its report.

    The handles of `Hub.train`, `Hub.compose` and `Hub.quantize` are a `JobHandle[AdapterVersion, …]`. Jobs of other
    kinds make no version, so that their report is their result, as in `JobHandle[MergeReport, MergeReport]`. The kind
    of a job that is looked up by its id is not known to a type checker.
    """

    def __init__(self, job: Job, stores: Stores, dispatcher: Dispatcher, *, shows: bool | None = None) -> None:
        self._job, self._stores, self._dispatcher, self._shows = job, stores, dispatcher, shows

    def _list_fields(self) -> Mapping[str, object]:
        fields: dict[str, object] = {
            "id": self.id,
            "kind": self.kind,
            "state": self._job.state,
            "adapter": self.adapter,
        }
        fields |= {"worker": self.worker, "depends_on": self.depends_on or None, "reason": self.reason}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def id(self) -> str:
        """Id of the job."""
        return self._job.id

    @property
    def kind(self) -> str:
        """Kind of the job, such as `train`."""
        return self._job.kind

    @property
    def adapter(self) -> str | None:
        """Reference of the version that the job made, or name of the adapter of which it makes one.

        This and the following are as they were when the job was read last. `refresh` reads it again.
        """
        return (self._job.result or {}).get("adapter") or find_target(self._job.spec)

    @property
    def worker(self) -> str | None:
        """Name of the worker that runs the job, or ran it last."""
        return self._job.worker

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Ids of the jobs that must succeed first."""
        return self._job.depends_on

    @property
    def reason(self) -> str | None:
        """Why the job failed, or is tried again."""
        return self._job.reason

    @property
    def _kind(self) -> JobKind[Any, Any, Any]:
        return kinds.kind_of(self._job.kind)

    @property
    def spec(self) -> JobSpec:
        """Specification of the job."""
        spec: JobSpec = self._kind.spec_of(self._job.spec)
        return spec

    @property
    def state(self) -> JobState:
        """Current state of the job, read from the database."""
        return self.refresh().state

    def refresh(self) -> Job:
        """Read the job from the database and return it."""
        with self._stores.database.read() as session:
            self._job = jobs.get(session, self.id)
        return self._job

    def wait(self, timeout: float | None = None, *, progress: bool | None = None) -> Job:
        """Wait until the job has ended and return it. Ctrl-C ends the waiting, and cancels nothing.

        Args:
            timeout: seconds to wait; None waits without a limit.
            progress: whether to show events meanwhile; None does as the hub does.

        Raises:
            TimeoutError: the job has not ended in that time.
            Unavailable: the database did not answer for two minutes.
        """
        from finch_hub.display.sessions import open_client_view

        deadline = None if timeout is None else time.monotonic() + timeout
        with telling_how_to_go_on(f"job {self.id}", f'hub.jobs["{self.id}"]', "follow"):
            if retry_read(self.refresh).state in FINAL:
                return self._job
            with open_client_view(self._shows if progress is None else progress) as view:
                return self._watch(view, deadline=deadline)

    def follow(self, timeout: float | None = None, *, after: int = 0, view: View | None = None) -> Job:
        """Show the job's events until it has ended, and return it. Ctrl-C ends that, and cancels nothing.

        A terminal and a notebook have a bar, with the messages beside it. Elsewhere there are lines.

        Args:
            timeout: seconds to follow it; None follows it without a limit.
            after: number of the last event that is not shown.
            view: display of the events; None takes one of this terminal or notebook.

        Raises:
            TimeoutError: the job has not ended in that time.
            Unavailable: the database did not answer for two minutes.
        """
        from finch_hub.display.sessions import open_client_view

        deadline = None if timeout is None else time.monotonic() + timeout
        if view is not None:
            return self._watch(view, after=after, deadline=deadline)
        call = f'hub.jobs["{self.id}"]'
        with telling_how_to_go_on(f"job {self.id}", call, "follow"), open_client_view(True) as opened:
            return self._watch(opened, after=after, deadline=deadline)

    def history(self) -> dict[str, list[float | None]]:
        """Return the losses of a training so far, as columns: `pandas.DataFrame(job.history())` is a table of them.

        The columns are `step`, `train_loss`, `learning_rate`, `held_out_loss` and `held_out_accuracy`. A row has None
        where nothing was measured. Other jobs have no rows.
        """
        return self._read_curve().to_columns()

    def result(self, timeout: float | None = None, *, progress: bool | None = None) -> ResultT_co:
        """Wait for the job and return the adapter version that it made, or its report if it makes none.

        The output of a merge or an export is then where its submitter wanted it. If a worker elsewhere made it and this
        is the submitter's machine, it is fetched (see `save`).

        Args:
            timeout: seconds to wait; None waits without a limit.
            progress: whether to show events meanwhile; None does as the hub does.

        Raises:
            JobFailed: the job failed; gives the reason.
            JobCancelled: the job was cancelled.
            TimeoutError: the job has not ended after `timeout` seconds.
            Conflict: the path of the output exists by now and may not be replaced.
        """
        result = self._wait_for_result(timeout, progress=progress)
        if result.output is not None and isinstance(self.spec, OutputSpec) and outputs.is_here(self.spec):
            with contextlib.suppress(errors.MissingArtifact):  # it was fetched before
                self.save()
        if result.adapter is None:
            return cast("ResultT_co", self._kind.report.of_stored(result.report))
        with self._stores.database.read() as session:
            return cast("ResultT_co", adapter_versions.resolve(session, result.adapter))

    def version(self) -> values.AdapterVersion | None:
        """Return the adapter version that the job made, None if it made none, or if the version was deleted."""
        adapter = self._wait_for_result(None).adapter
        if adapter is None:
            return None
        with contextlib.suppress(errors.NotFound), self._stores.database.read() as session:
            return adapter_versions.resolve(session, adapter)
        return None

    def save(self, out: str | Path | None = None, *, replace: bool | None = None) -> Path:
        """Wait for the job, write the output that waits in the artifact store to a new folder, and return its path.

        The output is removed from the store then.

        Args:
            out: path of the new folder; None takes that of the submission.
            replace: whether to replace an earlier output of the same kind; None takes that of the submission.

        Raises:
            InvalidSpec: no folder is named, or it cannot be made.
            Conflict: the job has no output in the store, or the path exists and may not be replaced.
            MissingOutput: the output was fetched, or its week is over.
            JobFailed: the job failed; gives the reason.
            JobCancelled: the job was cancelled.
            Unavailable: the store does not answer, or the path cannot be written.
        """
        stored, spec = self._wait_for_result(None).output, self.spec
        if not isinstance(spec, OutputSpec):
            raise errors.Conflict(f"job {self.id} has no output: it is a job of kind {spec.kind}")
        if stored is None:
            worker = self._job.worker or "its worker"
            raise errors.Conflict(f"the output of job {self.id} is not in the store: {worker} wrote it to {spec.out}")
        if out is None and not outputs.is_here(spec):
            what = "the job was submitted on another machine, or before this one was restarted"
            raise errors.InvalidSpec(what, where=f"job {self.id}", fix="name a folder")
        path = find_output(spec.out if out is None else out)
        try:
            outputs.save_output(
                stored, path, self._stores.artifacts, replace=spec.replaces if replace is None else replace
            )
        except errors.MissingArtifact as error:
            ended_at = self._job.finished_at
            is_over = ended_at is not None and (datetime.now(UTC) - ended_at).total_seconds() > OUTPUT_SECONDS
            raise errors.MissingOutput(self.id, is_over=is_over) from error
        return path

    def is_saved(self, out: str | Path | None = None) -> bool:
        """Tell whether the output of the job is a folder at this path, or by default at that of the submission."""
        spec = self.spec
        return isinstance(spec, OutputSpec) and outputs.is_saved(self.id, Path(spec.out if out is None else out))

    def has_output(self) -> bool:
        """Tell whether the job succeeded and made an output that can be fetched, or could be before."""
        job = self.refresh()
        return job.state is JobState.SUCCEEDED and JobResult.of_stored(job.result).output is not None

    def report(self, timeout: float | None = None, *, progress: bool | None = None) -> ReportT_co:
        """Wait for the job and return its report, of the type that its kind has in `finch_hub.specs.reports`.

        Arguments and errors are those of `result`.
        """
        result = self._wait_for_result(timeout, progress=progress)
        return cast("ReportT_co", self._kind.report.of_stored(result.report))

    def write_report(self, html: str | Path, *, samples: bool = False, replace: bool = False) -> Path:
        """Write a report of the job as it is now as one HTML file, and return its path.

        The report of a job that made a version is that of the version, with the times of the job. A job that runs has a
        report of its curve so far.

        Args:
            html: path of the new file.
            samples: whether to show sample answers of the version. They quote rows of the data.
            replace: whether to replace an earlier report at `html`.

        Raises:
            Conflict: the path exists and may not be replaced, or there are no sample answers.
            InvalidInput: the extra `report` is not installed.
            Unavailable: the path cannot be written.
        """
        from finch_hub.hub import reporting

        job, events = self.refresh(), list(self.events())
        return reporting.report_job(job, events, html, self._stores, samples=samples, replace=replace)

    def events(
        self, *, after: int = 0, follow: bool = False, while_waiting: Callable[[], None] | None = None
    ) -> Iterator[Event]:
        """Yield the job's events with numbers over `after`. With `follow`, continue until the job has ended.

        Following polls twice a second and tolerates a database that does not answer for up to two minutes. While the
        job has not started, it calls `while_waiting` every ten seconds.

        Raises:
            NotFound: there is no such job.
            Unavailable: the database did not answer for two minutes.
        """
        for job in self._states(while_waiting) if follow else iter((self.refresh(),)):
            # The state was read before the events, so a job that had ended gets no more of them.
            for event in self._read_events(after):
                yield event
                after = event.seq
            if job.state in FINAL:
                return

    def cancel(self) -> Job:
        """Cancel the job. A running job is cancelled by its worker within seconds. Jobs that depend on it fail.

        Raises:
            IllegalTransition: the job has already succeeded or failed.
        """
        with changing(self._stores, "job.cancel", self.id) as change, change.write() as session:
            self._job = jobs.request_cancel(session, self.id)
            change.details = {"kind": self._job.kind, "owner": self._job.owner}
        with contextlib.suppress(errors.Unavailable):  # the job is cancelled, and workers settle what is left
            while settlements.settle_due(self._stores.database):  # there may be no worker
                pass
        return self._job

    def retry(self) -> Self:
        """Submit the failed or cancelled job again as a new job of its owner.

        Raises:
            IllegalTransition: the job has neither failed nor been cancelled.
            Conflict: this version cannot read the job, its data set was purged, or its owner would have too many
                unfinished jobs.
        """
        with self._stores.database.write() as session:
            job = jobs.retry(session, self.id, owner_unfinished=self._stores.settings.owner_unfinished)
        self._dispatcher.dispatch(job)
        return type(self)(job, self._stores, self._dispatcher, shows=self._shows)

    def attempts(self) -> list[values.Attempt]:
        """Return the attempts to run the job, in order."""
        with self._stores.database.read() as session:
            return jobs.list_attempts(session, self.id)

    def obstacles(self) -> Mapping[str, list[str]]:
        """Return the reasons why each live worker cannot run the job. Empty if one can, or if there is no worker.

        If the home's own worker cannot start, its reason is among them. A job that has ended has none.
        """
        if self._job.state in FINAL:
            return {}
        with self._stores.database.read() as session:
            found = workers.find(session)
        obstacles = placement.list_obstacles(self._job, found)
        if all(worker.state in workers.GONE for worker in found) and (why := self._dispatcher.find_failure()):
            obstacles["the worker of this home"] = [f"could not start: {why}"]
        return obstacles

    def idle_workers(self) -> list[str]:
        """Return the names of idle workers that could claim the job now. They do so within seconds if all is well."""
        settings = self._stores.settings
        limit = settings.owner_running
        if limit is None and settings.broker_url is not None:
            limit = 1  # the workers may have a limit that is not set here
        with self._stores.database.read() as session:
            if limit is not None and owner_limits.count_running(session, self._job.owner) >= limit:
                return []
            return [
                worker.id
                for worker in workers.find_idle(session)
                if not placement.list_obstacles(self._job, [worker])
                and not attempts.is_passed_on(session, self.id, worker.id)
            ]

    def is_unattended(self) -> bool:
        """Tell whether no worker is live and none starts on demand."""
        if self._stores.settings.broker_url is None:
            return False
        with self._stores.database.read() as session:
            return workers.count_slots(session) == 0

    def wait_status(self) -> waiting.WaitStatus | None:
        """Return what is known of why the job has not started, None if it runs or has ended."""
        if self._job.state not in (JobState.QUEUED, JobState.WAITING):
            return None
        with self._stores.database.read() as session:
            return waiting.read(session, self._job)

    def _wait_for_result(self, timeout: float | None, *, progress: bool | None = None) -> JobResult:
        job = self._job if self._job.state in FINAL else self.wait(timeout, progress=progress)
        if job.state is JobState.FAILED:
            raise errors.JobFailed(job.id, job.reason or "no reason given")
        if job.state is JobState.CANCELLED:
            raise errors.JobCancelled(job.id)
        return JobResult.of_stored(job.result)

    def list_warnings(self) -> list[str]:
        """Return why the job may wait for long: no worker runs, or some cannot run it."""
        if self.is_unattended():
            return [f"warning: {waiting.NO_WORKER}"]
        return [
            f"warning: worker {worker} cannot run this job: it {', '.join(reasons)}"
            for worker, reasons in self.obstacles().items()
        ]

    def _watch(self, view: View, *, after: int = 0, deadline: float | None = None) -> Job:
        """Show events until the job has ended, and why no worker runs it."""
        told: set[str] = set()

        def warn() -> None:
            for warning in self.list_warnings():
                if warning not in told:
                    view.write(warning)
                told.add(warning)

        def tell() -> None:
            warn()
            if text := waiting.describe_wait(self.wait_status()):
                view.show_wait(text)

        if not view.is_silent:
            warn()
        for job in self._states(None if view.is_silent else tell):
            for event in () if view.is_silent else self._read_events(after):
                view.show(event)
                after = event.seq
            if job.state in FINAL:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {self.id} is still {job.state}: the time to wait for it is over")
        raise AssertionError("unreachable: the states have no end")

    def _read_curve(self) -> LossCurve:
        with self._stores.database.read() as session:
            return evidence.read_curve(session, self.id)

    def _repr_html_(self) -> str:
        """Return the job as it is now. A job that cannot be read is shown as it was."""
        with contextlib.suppress(errors.FinchError):
            self.refresh()
        return super()._repr_html_()

    def _draw_html(self) -> str:
        """Draw the loss curve. A notebook shows the fields alone if the database does not answer."""
        from finch_hub.display.notebook_drawings import draw_curve

        with contextlib.suppress(errors.FinchError):
            return draw_curve(self._read_curve())
        return ""

    def _read_events(self, after: int) -> Iterator[Event]:
        """Yield the events that there are, page by page."""
        page = retry_read(self._read_page, after)
        while page:
            yield from page
            page = retry_read(self._read_page, page[-1].seq) if len(page) == _PAGE_SIZE else []

    def _read_page(self, after: int) -> list[Event]:
        with self._stores.database.read() as session:
            return jobs.list_events(session, self.id, after=after, limit=_PAGE_SIZE)

    def _states(self, while_waiting: Callable[[], None] | None = None) -> Iterator[Job]:
        """Yield the job twice a second without end, and keep the home's own worker running."""
        ensured = time.monotonic()
        while True:
            yield retry_read(self.refresh)
            time.sleep(POLL_SECONDS)
            if time.monotonic() - ensured > _ENSURE_SECONDS:
                # If the worker started on demand was killed, no other worker runs its jobs.
                self._dispatcher.ensure_worker()
                if while_waiting is not None and self._job.state in (JobState.QUEUED, JobState.WAITING):
                    retry_read(while_waiting)
                ensured = time.monotonic()


def retry_read(read: Callable[..., T], *arguments: int) -> T:
    """Return the result of `read`, repeated while the database does not answer.

    Raises:
        Unavailable: the database did not answer for two minutes.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return read(*arguments)
        except errors.Unavailable as error:
            if isinstance(error, (errors.SchemaMismatch, errors.ReplacedDatabase)) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS * 2)


@contextlib.contextmanager
def telling_how_to_go_on(subject: str, call: str, method: str) -> Iterator[None]:
    """Say after Ctrl-C how to follow or cancel what was waited for.

    Args:
        subject: what that is, such as "job abc".
        call: Python that looks it up in the hub.
        method: name of the method that follows it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if is_in_command():  # which says it in its words
            raise
        from finch_hub.display import tables

        text = f"Stopped waiting for {subject}. It continues in the background."
        advice = f"Follow it again: {call}.{method}()\nCancel it: {call}.cancel()"
        tables.console(stderr=True).print(f"\n{text}\n{advice}", soft_wrap=True)
        raise


class Jobs:
    """The jobs of the hub. `jobs[id]` looks a job up, and a loop over the jobs yields their ids, newest first."""

    def __init__(self, stores: Stores, dispatcher: Dispatcher, *, shows: bool | None = None) -> None:
        self._stores, self._dispatcher, self._shows = stores, dispatcher, shows

    def __getitem__(self, job_id: str) -> JobHandle:
        """Return the job with this id.

        Raises:
            NotFound: there is no such job.
        """
        return self.get(job_id)

    def __contains__(self, job_id: object) -> bool:
        try:
            return isinstance(job_id, str) and self.get(job_id) is not None
        except (errors.NotFound, errors.InvalidReference):
            return False

    def __iter__(self) -> Iterator[str]:
        return (handle.id for handle in self.iterate())

    def iterate(
        self, *, states: Collection[JobState] | None = None, kind: str | None = None, owner: str | None = None
    ) -> Iterator[JobHandle]:
        """Yield the jobs, newest first, page by page. Those that are deleted meanwhile may be left out."""
        below: int | None = None
        while True:
            with self._stores.database.read() as session:
                found, below = jobs.find_page(
                    session, below=below, states=states, kind=kind, owner=owner, limit=_PAGE_SIZE
                )
            yield from (JobHandle(job, self._stores, self._dispatcher, shows=self._shows) for job in found)
            if below is None:
                return

    def get(self, job_id: str) -> JobHandle:
        """Return the job with this id, the one whose id begins so, or your newest one for "last".

        Raises:
            NotFound: there is no such job.
            InvalidReference: the ids of several jobs begin so.
        """
        owner = self._stores.settings.owner_name
        with self._stores.database.read() as session:
            job = jobs.get(session, jobs.find_id(session, job_id, owner=owner))
        return JobHandle(job, self._stores, self._dispatcher, shows=self._shows)

    def find(
        self,
        *,
        states: Collection[JobState] | None = None,
        kind: str | None = None,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Job]:
        """Return jobs, newest first. With `before`, return those older than the job with that id.

        Raises:
            NotFound: the job of `before` does not exist.
        """
        with self._stores.database.read() as session:
            return jobs.find(session, states=states, kind=kind, owner=owner, limit=limit, before=before)

    def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in each state."""
        with self._stores.database.read() as session:
            return jobs.count(session)

    def count_running(self, owner: str) -> int:
        """Return the number of running jobs of an owner."""
        with self._stores.database.read() as session:
            return owner_limits.count_running(session, owner)

    def status(self) -> queue_status.QueueStatus:
        """Return numbers of jobs that have not ended, the job that waits longest, and jobs that nobody recovered.

        A job counts as lost if no sweep has ended it for as long as several should have.
        """
        settings = self._stores.settings
        with self._stores.database.read() as session:
            return queue_status.read(session, lost_after=settings.lease_seconds + 4 * settings.sweep_seconds)

    def find_set_aside(self, *, limit: int = 100) -> list[Job]:
        """Return unfinished jobs that some version of Finch Hub cannot read, newest first. They can be cancelled."""
        with self._stores.database.read() as session:
            return jobs.find_set_aside(session, limit=limit)

    def find_unsettled(self) -> dict[str, str]:
        """Return why some jobs could not be ended, or what depends on them not be settled, by the id of the job."""
        with self._stores.database.read() as session:
            return settlements.find_troubles(session)

    def find_stuck(self) -> dict[str, str]:
        """Return why some jobs wait for nothing, of the first thousand that wait for others, by the id of the job."""
        with self._stores.database.read() as session:
            return stuck_jobs.find(session)

    @accept_former_names({"older_than": lambda seconds: seconds / _DAY_SECONDS}, older_than="days", beyond="keep")
    def prune(self, *, days: float | None = None, keep: int | None = None, dry_run: bool = False) -> int:
        """Delete ended jobs with their events and return their number. Versions and lineage stay.

        Args:
            days: age in days, counted from their end, of the jobs to delete; None deletes none by age.
            keep: number of ended jobs to keep; None deletes none by number.
            dry_run: whether to delete nothing, and only return how many would be deleted.
        """
        total = 0
        details = {"days": days, "keep": keep}
        older_than = None if days is None else days * _DAY_SECONDS
        if dry_run:
            with self._stores.database.read() as session:
                return jobs.count_expired(session, older_than=older_than, beyond=keep)
        with self._stores.use_reserve(), changing(self._stores, "jobs.prune", "jobs", **details) as change:
            while True:
                with change.write() as session:
                    pruned = jobs.prune(session, older_than=older_than, beyond=keep)
                    total += len(pruned)
                    change.details["jobs"] = total
                if not pruned:
                    return total
