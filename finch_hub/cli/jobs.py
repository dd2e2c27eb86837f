"""`finch-hub jobs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import completion, following, options, output
from finch_hub.display import commands, progress, reports, tables
from finch_hub.workers.logs import job_lines
from finch_hub.workers.runs import kinds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle
    from finch_hub.hub.waiting import WaitStatus
    from finch_hub.registry.values import Attempt
    from finch_hub.specs.jobs import Job
    from finch_hub.specs.value import Value

STATES = ("waiting", "queued", "running", "succeeded", "failed", "cancelled")


@click.group()
def jobs() -> None:
    """List, watch, cancel and retry jobs.

    A JOB is its id, the first characters of it that no other job has, or "last" for the newest of yours.
    """


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="State of the jobs. Can be repeated.")
@click.option("--kind", type=click.Choice(list(kinds.MODULES)), help="Kind of the jobs.")
@click.option("--owner", metavar="NAME", help="Owner of the jobs.")
@click.option("--limit", type=click.IntRange(1, 10**9), default=50, show_default=True, help="Maximum number of jobs.")
@click.option(
    "--before", metavar="JOB", shell_complete=completion.complete_jobs, help="Job that the listed ones are older than."
)
@output.list_options
def list_(
    states: tuple[str, ...],
    kind: str | None,
    owner: str | None,
    limit: int,
    before: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    from finch_hub.specs.jobs import JobState

    with output.open_hub() as hub:
        if before is not None:
            before = hub.jobs.get(before).id
        jobs = hub.jobs.find(
            states=[JobState(state) for state in states] or None, kind=kind, owner=owner, limit=limit, before=before
        )
    rows = [(job.id, job.kind, job.state.value, _summarize(job), job.owner, job.worker, job.created_at) for job in jobs]
    columns = ("job", "kind", "state", "target", "owner", "worker", "created")
    is_filtered = states or kind or owner or before
    advice = ("List all jobs", "jobs", "list") if is_filtered else ("Read how to submit one", "train", "--help")
    empty = "There are no such jobs." if is_filtered else "There are no jobs."
    output.emit_list(jobs, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@click.option("--config", is_flag=True, help="Print the settings of the job, as a file that --config reads.")
@output.json_option
def show(job_id: str, config: bool, as_json: bool) -> None:
    """Show one job with its state, attempts and result, and the command that repeats it."""
    from finch_hub.hub import reporting

    with output.open_hub() as hub:
        handle = hub.jobs.get(job_id)
        if config:
            preset = reporting.find_preset(handle.spec, hub.catalog)
            settings = commands.name_settings(handle.spec, preset, job=handle.refresh())
            output.emit(settings, as_json, lambda: commands.write_settings(settings))
            return
        job, attempts = handle.refresh(), handle.attempts()
        report, report_problem = _read_report(handle) if job.state == "succeeded" else (None, None)
        is_queued = job.state == "queued"
        obstacles = handle.obstacles() if is_queued else {}
        queue = _describe_queue(hub, job) if is_queued else None
        is_unattended = is_queued and handle.is_unattended()
        wait = handle.wait_status()
        has_output = report is not None and handle.has_output()
        command = reporting.find_command(job.kind, job.spec, hub.catalog, job)
        made = (job.result or {}).get("adapter")
        curve = _read_curve(hub, made) if made is not None else []
    value = {**tables.to_json(job), "attempts": attempts, "obstacles": obstacles, "wait": wait, "command": command}
    output.emit(value, as_json, lambda: _draw_job(job, attempts, queue, wait, obstacles, is_unattended, report_problem))
    if report is not None and not as_json:
        output.draw(reports.draw_report(report))
    if not as_json:
        for line in curve:
            output.say(line)
    if command is not None and not as_json:
        output.say(f"Repeat it with: {command}")
    if has_output:
        output.suggest("Fetch its output, within a week after the job", "jobs", "save", handle.id, as_json=as_json)
    if job.finished_at is None:
        output.suggest("Follow it", "jobs", "watch", job.id, as_json=as_json)
    else:
        following.suggest_next(handle, as_json=as_json)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@click.option("--after", type=click.IntRange(0, 2**62), default=0, help="Number of the event to start after.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def watch(job_id: str, after: int, as_json: bool) -> None:
    """Follow a job until it has ended."""
    with output.open_hub() as hub:
        handle = hub.jobs.get(job_id)
        if as_json:
            for event in handle.events(after=after, follow=True):
                output.say_json(event.model_dump_json())
        else:
            following.watch(handle, after=after)
        try:
            report, problem = _read_report(handle)
        except (errors.JobFailed, errors.JobCancelled):
            following.suggest_next(handle, as_json=as_json)
            raise
        if not as_json:
            drawn = problem if report is None else reports.draw_result(handle.version() or report, report)
            output.draw(drawn)
        if handle.has_output():
            output.suggest("Fetch its output", "jobs", "save", handle.id, as_json=as_json)
        following.suggest_next(handle, as_json=as_json)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@click.option("--out", type=click.Path(), help="Path of the new folder.  [default: that of the submission]")
@click.option("--replace", is_flag=True, default=None, help="Replace an earlier output of the same kind.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def save(job_id: str, out: str | None, replace: bool | None, quiet: bool) -> None:
    """Write the output of a merge or an export that a worker on another machine made.

    The output waits in the artifact store for a week, and is removed when it was fetched. The command waits for the job
    first.
    """
    with output.open_hub() as hub, progress.show_advances(quiet=quiet):
        handle = hub.jobs.get(job_id)
        was_saved = not replace and handle.is_saved(out)
        path = handle.save(out, replace=replace)
    if was_saved:
        output.say(f"The output of job {handle.id} was written to {path} before")
    else:
        output.say(f"Wrote the output of job {handle.id} to {path}")


@jobs.command("sweep")
@click.argument("sweep_id", metavar="SWEEP")
@click.option("--wait", is_flag=True, help="Wait until all its jobs have ended.")
@click.option("--quiet", is_flag=True, help="Print only the versions, the lowest loss first.")
@output.json_option
def show_sweep(sweep_id: str, wait: bool, quiet: bool, as_json: bool) -> None:
    """Compare the points of a sweep as they are now."""
    from finch_hub.cli.sweep import conclude, show_report

    with output.open_hub() as hub:
        handle = hub.get_sweep(sweep_id)
        if wait:
            conclude(handle, quiet=quiet, as_json=as_json)
            return
        report = handle.report()
    show_report(report, quiet=quiet, as_json=as_json)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@options.report_options
def report(job_id: str, html: str, samples: bool, replace: bool) -> None:
    """Write a report of a job with its pictures to one HTML file.

    It needs no network and can be printed. The report of a job that made a version is that of the version. It needs the
    extra `report`.
    """
    with output.open_hub() as hub:
        path = hub.jobs.get(job_id).write_report(html, samples=samples, replace=replace)
    output.say(f"Wrote the report of job {job_id} to {path}")


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def events(job_id: str, as_json: bool) -> None:
    """Print the events of a job so far."""
    with output.open_hub() as hub:
        for event in hub.events(job_id):
            if as_json:
                output.say_json(event.model_dump_json())
            elif line := progress.draw_event(event):
                output.draw(line)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event, without the lines of the log.")
def logs(job_id: str, as_json: bool) -> None:
    """Print the events of a job with their times, and the lines of this machine's worker log about it.

    `finch-hub jobs watch` follows a job that runs.
    """
    with output.open_hub() as hub:
        handle = hub.jobs.get(job_id)
        for event in handle.events():
            if as_json:
                output.say_json(event.model_dump_json())
                continue
            drawn = progress.draw_event(event)
            text = " ".join(drawn.split()) if isinstance(drawn, str) else f"report {event.data.get('name', '')}"
            if text:
                output.say(f"{tables.format_value(event.at)}  {event.level:5}  {text.removeprefix('- ')}")
        lines = [] if as_json else list(job_lines.read_job_lines(hub.settings.home / "logs", handle.id))
        if lines:
            output.say(f"The log of the worker of this home, {hub.settings.home / 'logs'}:")
        for line in lines:
            output.say(line)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
def cancel(job_id: str) -> None:
    """Cancel a job. A running job stops within seconds."""
    with output.open_hub(deletes=True) as hub:  # so that what it needs can be deleted
        job = hub.jobs.get(job_id).cancel()
    if job.state == "running":
        output.say(f"Requested cancellation of job {job.id}")
        output.suggest("Follow it", "jobs", "watch", job.id)
    else:
        output.say(f"Cancelled job {job.id}")


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=completion.complete_jobs)
@following.job_command
def retry(hub: Hub, job_id: str) -> JobHandle:
    """Submit a failed or cancelled job again as a new job."""
    return hub.jobs.get(job_id).retry()


@jobs.command()
@click.option("--days", type=options.Days(), help="Delete jobs that ended more than this many days ago.")
@click.option("--keep", type=click.IntRange(0, 10**9), help="Number of ended jobs to keep.")
@click.option("--dry-run", is_flag=True, help="Delete nothing, and print how many jobs would be deleted.")
@output.yes_option
def prune(days: float | None, keep: int | None, dry_run: bool, yes: bool) -> None:
    """Delete ended jobs with their events. Versions and their lineage stay.

    With FINCH_HISTORY_DAYS and FINCH_HISTORY_JOBS the workers do this regularly.
    """
    if days is None and keep is None:
        raise click.UsageError("no jobs are selected: add --days, --keep or both")
    if dry_run:
        with output.open_hub() as hub:
            count = hub.jobs.prune(days=days, keep=keep, dry_run=True)
        output.say(f"Would delete {tables.format_count(count, 'job')}")
        return

    def ask() -> str:
        count = tables.format_count(hub.jobs.prune(days=days, keep=keep, dry_run=True), "ended job")
        return f"Delete {count} with their events, which cannot be undone?"

    with output.open_hub(deletes=True) as hub:
        output.confirm(ask, yes=yes)
        count = hub.jobs.prune(days=days, keep=keep)
    output.say(f"Deleted {tables.format_count(count, 'job')}")


def _read_report(handle: JobHandle) -> tuple[Value | None, str | None]:
    """Return the report of a job that succeeded, or why this version cannot read it."""
    try:
        return handle.report(), None
    except (errors.InvalidSpec, errors.NotFound) as error:
        return None, f"cannot be read by this version of Finch Hub: {error}"


def _read_curve(hub: Hub, reference: str) -> list[str]:
    """Return the loss curve of the version that a job made, as lines of bars."""
    from finch_hub.display.evidence import format_curve

    try:
        curve = hub.adapters.evidence(reference).curve
    except errors.NotFound:  # it was deleted
        return []
    return format_curve(curve) if curve is not None else []


def _summarize(job: Job) -> str:
    if job.set_aside and job.state == "queued":
        return job.reason or ""
    return _describe_spec(job)


def _describe_spec(job: Job) -> str:
    if job.unreadable is not None:
        return f"cannot be read by this version of Finch Hub: {job.unreadable}"
    try:
        kind = kinds.kind_of(job.kind)
        return kind.about(kind.spec_of(job.spec))
    except errors.FinchError as error:  # another version of Finch Hub submitted it
        return str(error)


def _describe_queue(hub: Hub, job: Job) -> str:
    """Describe what a queued job may wait for: other queued jobs, busy slots, or running jobs of its owner."""
    status = hub.jobs.status()
    own = f", {hub.jobs.count_running(job.owner):,} of them by {job.owner}" if job.owner else ""
    return f"{status.queued:,} queued, {status.running:,} running{own}"


def _describe_attempt(attempt: Attempt, *, known: str | None) -> str:
    """Describe an attempt, with its reason unless that is the known one of the job."""
    ended = attempt.ended_at
    took = f" after {tables.format_duration((ended - attempt.started_at).total_seconds())}" if ended else ""
    reason = f": {attempt.reason}" if attempt.reason and attempt.reason not in (known or "") else ""
    began = tables.format_value(attempt.started_at)
    return f"{attempt.fence} on {attempt.worker} from {began}: {attempt.outcome or 'running'}{took}{reason}"


def _describe_requirements(job: Job) -> str:
    needed, parts = job.requirements, []
    if needed.queue != "default":
        parts.append(f"queue {needed.queue}")
    if needed.device != "any":
        parts.append(f"device {needed.device}")
    if needed.memory_bytes:
        parts.append(f"{tables.format_bytes(needed.memory_bytes)} of memory")
    parts += [f"label {label}" for label in needed.labels]
    if needed.time_limit is not None:
        parts.append(f"at most {tables.format_duration(needed.time_limit)} for an attempt")
    return ", ".join(parts)


def _draw_job(
    job: Job,
    attempts: Sequence[Attempt],
    queue: str | None,
    wait: WaitStatus | None,
    obstacles: Mapping[str, list[str]],
    is_unattended: bool,
    report_problem: str | None,
) -> RenderableType:
    from finch_hub.hub import waiting

    result = job.result or {}
    cancelling = ", cancellation requested" if job.cancel_requested and not job.finished_at else ""
    fields = {
        "job": job.id,
        "kind": job.kind,
        "target": _describe_spec(job),
        "state": job.state.value + cancelling,
        "reason": tables.Lines.of(job.reason),
        "result": " ".join(result[key] for key in ("adapter", "state") if result.get(key)) or None,
        "report": tables.Lines.of(report_problem),
        "owner": job.owner or None,
        "created": job.created_at,
        "started": job.started_at,
        "ended": job.finished_at,
        "depends on": job.depends_on or None,
        "attempts used up": job.attempts or None,
        "attempts": tables.Lines(_describe_attempt(a, known=job.reason) for a in attempts) or None,
        "needs": _describe_requirements(job) or None,
        "priority": job.priority or None,
        "retry of": job.retry_of,
        "queue": queue,
        "waits": waiting.NO_WORKER if is_unattended else waiting.describe_wait(wait),
        "cannot run on": tables.Lines(f"{name} {', '.join(why)}" for name, why in obstacles.items()) or None,
    }
    return tables.draw_fields(fields)
