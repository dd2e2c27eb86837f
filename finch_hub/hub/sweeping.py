"""Sweeps: one training for each combination of settings, all on the same examples."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from finch_hub import errors
from finch_hub.hub.jobs import JobHandle, retry_read, telling_how_to_go_on
from finch_hub.hub.sweep_ranking import Trained, rank_points
from finch_hub.registry import adapter_versions, jobs, values
from finch_hub.specs.jobs import FINAL, Job, JobState, TrainSpec
from finch_hub.specs.lora import LoRAConfig, ShortName
from finch_hub.specs.reading import ReadingConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.sweeps import SweepPoint, SweepReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import JsonObject
from finch_hub.texts.counts import format_count
from finch_hub.texts.summaries import Summarized

if TYPE_CHECKING:
    from finch_hub.display.progress import View
    from finch_hub.display.sweeps import PointsView
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher

MAX_POINTS = 100
_STORED = {"stored": True}
# They change nothing of what is learned, or must be equal so that the losses can be compared.
_OF_ALL = ("validation", "samples", "threads", "checkpoint_every", "keep_checkpoints", "gradient_checkpointing")
_OF_TUPLES = ("target_modules", "exclude_modules", "layers_to_transform")
_SHORT_NAMES = get_args(ShortName)


def list_points(settings: Mapping[str, object]) -> list[dict[str, object]]:
    """Return all combinations of the settings. A list holds the values of a setting to try.

    Raises:
        InvalidSpec: with everything that is wrong with the lists.
    """
    varied = {
        name: value
        for name, value in settings.items()
        if isinstance(value, list) and name not in ReadingConfig.model_fields
    }
    problems = []
    for name, tried in varied.items():
        if name in _OF_ALL:
            problems.append(errors.Problem(where=name, what="is the same for all points", fix="give one value"))
        elif name in _OF_TUPLES and all(map(_is_name, tried)):
            fix = "write a tuple for one value, or a list of tuples"
            problems.append(errors.Problem(where=name, what="may be one value or several", fix=fix))
        elif not tried:
            problems.append(errors.Problem(where=name, what="has no value to try", fix="give two or more"))
        elif len({json.dumps(value, sort_keys=True, default=str) for value in tried}) < len(tried):
            problems.append(errors.Problem(where=name, what="has a value twice", fix="give each value once"))
    count = 1
    for tried in varied.values():
        count *= len(tried)
    if not problems and count < 2:
        fix = "give a setting a list of values, such as rank=[8, 16]"
        problems.append(errors.Problem(what="no setting has several values", fix=fix))
    if count > MAX_POINTS:
        what, fix = f"the settings have {count:,} combinations", f"try at most {MAX_POINTS} at once"
        problems.append(errors.Problem(what=what, fix=fix))
    if problems:
        raise errors.InvalidSpec(problems, subject="this sweep")
    same = {name: value for name, value in settings.items() if name not in varied}
    return [
        {**same, **dict(zip(varied, combination, strict=True))} for combination in itertools.product(*varied.values())
    ]


def _is_name(value: object) -> bool:
    """Tell whether a value may be meant as a part of a tuple: the name of a module, or the number of a layer."""
    return isinstance(value, int) or (isinstance(value, str) and value.isidentifier() and value not in _SHORT_NAMES)


def make_id(specs: Sequence[TrainSpec], owner: str) -> str:
    """Return the id of a sweep, which equal requests of one owner on equal data share."""
    text = json.dumps([owner, *(spec.model_dump(mode="json") for spec in specs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_key(sweep_id: str, number: int) -> str:
    """Return the idempotency key of the job of a point."""
    return f"sweep:{sweep_id}:{number}"


class SweepHandle(Summarized):
    """Handle of the jobs of a sweep.

    Attributes:
        id: id of the sweep.
    """

    def __init__(
        self,
        sweep_id: str,
        first: Mapping[int, Job],
        stores: Stores,
        dispatcher: Dispatcher,
        *,
        shows: bool | None = None,
    ) -> None:
        self.id = sweep_id
        self._stores, self._dispatcher, self._shows = stores, dispatcher, shows
        self._specs = {number: TrainSpec.of_stored(job.spec, context=_STORED) for number, job in first.items()}

    def _list_fields(self) -> Mapping[str, object]:
        return {"id": self.id, "adapter": self.adapter, "settings": self.settings}

    @property
    def adapter(self) -> str:
        """Name of the adapter of which each point is a version."""
        return next(iter(self._specs.values())).adapter

    @property
    def settings(self) -> dict[int, JsonObject]:
        """Settings that each point tries, by the number of the point."""
        names = _find_varied(list(self._specs.values()))
        return {number: {name: _get(spec, name) for name in names} for number, spec in self._specs.items()}

    def jobs(self) -> list[JobHandle]:
        """Return the jobs of the points, in the order of submission; of a job that was tried again, the newest."""
        return list(self._newest().values())

    def resume(self) -> None:
        """Submit the points again whose training failed or was cancelled."""
        for handle in self._newest().values():
            if handle.refresh().state in (JobState.FAILED, JobState.CANCELLED):
                handle.retry()

    def cancel(self) -> None:
        """Cancel the jobs that have not ended."""
        for handle in self._newest().values():
            with contextlib.suppress(errors.IllegalTransition):  # it has ended meanwhile
                handle.cancel()

    def report(self) -> SweepReport:
        """Return the points as they are now, the lowest held-out loss first."""
        settings, trained = self.settings, []
        for number, handle in self._newest().items():
            job, report = handle._job, None  # as `_newest` has just read it
            if job.state is JobState.SUCCEEDED:
                found = handle.report()
                report = found if isinstance(found, TrainingReport) else None
            point = SweepPoint(
                number=number,
                settings=settings[number],
                job=job.id,
                state=job.state,
                reason=job.reason,
                adapter=(job.result or {}).get("adapter"),
            )
            trained.append(Trained(point, report))
        return rank_points(self.id, self.adapter, trained)

    def wait(
        self, timeout: float | None = None, *, progress: bool | None = None, view: View | None = None
    ) -> SweepReport:
        """Wait until all jobs have ended, also of points that are tried again meanwhile, and return the report.

        A failed job is a point without a loss.

        Ctrl-C ends the waiting, and cancels nothing.

        Args:
            timeout: seconds to wait; None waits without a limit.
            progress: whether to show the trainings meanwhile; None does as the hub does.
            view: display of the trainings; None takes one of this terminal or notebook.

        Raises:
            TimeoutError: some jobs have not ended in that time.
            Unavailable: the database did not answer for two minutes.
        """
        from finch_hub.display.sessions import open_client_view

        deadline = None if timeout is None else time.monotonic() + timeout
        if view is not None:
            return self._watch(view, deadline)
        shows = self._shows if progress is None else progress
        call = f'hub.get_sweep("{self.id}")'
        with telling_how_to_go_on(f"sweep {self.id}", call, "wait"), open_client_view(shows) as opened:
            return self._watch(opened, deadline)

    def best(self, timeout: float | None = None, *, progress: bool | None = None) -> values.AdapterVersion:
        """Wait for the sweep, and return the version with the lowest held-out loss.

        Args:
            timeout: seconds to wait; None waits without a limit.
            progress: whether to show the trainings meanwhile; None does as the hub does.

        Raises:
            JobFailed: no training has succeeded; gives the reason of the first that failed.
            JobCancelled: all trainings were cancelled.
            TimeoutError: some jobs have not ended in that time.
        """
        report = self.wait(timeout, progress=progress)
        if report.best is None:
            raise explain_failure(report)
        (best,) = (point for point in report.points if point.number == report.best)
        with self._stores.database.read() as session:
            return adapter_versions.resolve(session, str(best.adapter))

    def _watch(self, view: View, deadline: float | None) -> SweepReport:
        """Show each training until it has ended, in the order of submission."""
        from finch_hub.display.sweeps import PointsView, describe_settings

        points, newest, settings = PointsView(view), self._newest(), self.settings
        titles = {
            number: f"{place} of {len(newest)}: {describe_settings(settings[number])}"
            for place, number in enumerate(newest, 1)
        }
        points.write(f"- sweep {self.id}: {format_count(len(newest), 'training')}")
        shown: set[str] = set()
        while True:
            for number, handle in newest.items():
                if handle.id not in shown:
                    shown.add(handle.id)
                    with contextlib.suppress(errors.NotFound):  # it has ended and was pruned meanwhile
                        self._watch_point(handle, titles[number], points, deadline)
            if (report := self.report()).is_finished:
                return report
            newest = self._newest()

    def _watch_point(self, handle: JobHandle, title: str, points: PointsView, deadline: float | None) -> None:
        """Show a training until it has ended. Of one that ran beside another, only the end is shown."""
        if (job := retry_read(handle.refresh)).state not in FINAL:
            points.begin(title)
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            job = handle.follow(left, view=points)
        points.write(f"  {title}: {job.state.value} {handle.adapter if job.result else job.reason or ''}".rstrip())

    def _newest(self) -> dict[int, JobHandle]:
        """Return the newest try of each point whose jobs were not deleted."""
        keys = {make_key(self.id, number): number for number in self._specs}
        with self._stores.database.read() as session:
            # A deleted job leaves its key to its newest retry.
            submitted = {keys[str(key)]: job.id for key, job in jobs.get_by_key(session, set(keys)).items()}
            newest = jobs.newest_retries(session, list(submitted.values()))
            found = {
                number: jobs.get(session, newest[job_id])
                for number, job_id in sorted(submitted.items())
                if job_id in newest
            }
        if not found:
            raise errors.NotFound("sweep", self.id, fix="its jobs were deleted; its versions stay")
        return {
            number: JobHandle(job, self._stores, self._dispatcher, shows=self._shows) for number, job in found.items()
        }


def explain_failure(report: SweepReport) -> errors.JobFailed | errors.JobCancelled:
    """Return the error for a sweep that has ended without a loss."""
    ran = [point for point in report.points if point.state is not JobState.CANCELLED]
    if not ran:
        return errors.JobCancelled(report.points[0].job)
    failed = next((point for point in ran if point.state is JobState.FAILED), ran[0])
    return errors.JobFailed(failed.job, failed.reason or "no training has succeeded")


def find_sweep(sweep_id: str, stores: Stores, dispatcher: Dispatcher, *, shows: bool | None = None) -> SweepHandle:
    """Return the sweep with this id.

    Raises:
        NotFound: there is none, or all its jobs were deleted.
    """
    keys = {make_key(sweep_id, number): number for number in range(1, MAX_POINTS + 1)}
    with stores.database.read() as session:
        found = jobs.get_by_key(session, set(keys))
    if not found:
        raise errors.NotFound("sweep", sweep_id)
    first = {keys[str(key)]: job for key, job in found.items()}
    return SweepHandle(sweep_id, dict(sorted(first.items())), stores, dispatcher, shows=shows)


def _find_varied(specs: Sequence[TrainSpec]) -> list[str]:
    """Return the settings in which the specifications differ, in the order of their fields."""
    names = [*LoRAConfig.model_fields, *TrainingConfig.model_fields]
    return [name for name in names if any(_get(spec, name) != _get(specs[0], name) for spec in specs)]


def _get(spec: TrainSpec, name: str) -> Any:
    owner = spec.lora if name in LoRAConfig.model_fields else spec.training
    return getattr(owner, name)
