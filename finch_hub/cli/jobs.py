"""`finch-hub jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub import errors
from finch_hub.cli import following, output
from finch_hub.display import progress, reports, tables
from finch_hub.workers.runs import kinds

if TYPE_CHECKING:
    from finch_hub.specs.jobs import Job

STATES = ("waiting", "queued", "running", "succeeded", "failed", "cancelled")
DAY_SECONDS = 86_400


@click.group()
def jobs() -> None:
    """List, watch, cancel and retry jobs."""


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; repeat it for several.")
@click.option("--kind", type=click.Choice(list(kinds.MODULES)), help="Only this kind.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.option("--before", metavar="JOB", help="Those older than this one.")
@output.json_option
def list_(states: tuple[str, ...], kind: Any, limit: int, before: str | None, as_json: bool) -> None:
    """List jobs, the newest first."""
    from finch_hub.specs.jobs import JobState

    with output.open_hub() as hub:
        chosen = [JobState(state) for state in states] or None
        found = hub.jobs.find(states=chosen, kind=kind, limit=limit, before=before)
    rows = [(job.id, job.kind, job.state.value, _about(job), job.worker, job.created_at) for job in found]
    columns = ("job", "kind", "state", "about", "worker", "submitted")
    output.emit(found, as_json, lambda: tables.table(columns, rows))


@jobs.command()
@click.argument("job_id", metavar="JOB")
@output.json_option
def show(job_id: str, as_json: bool) -> None:
    """Show one job: state, attempts, result."""
    with output.open_hub() as hub:
        handle = hub.jobs.get(job_id)
        job, attempts = handle.refresh(), handle.attempts()
        made = (handle.result(), handle.report()) if job.state == "succeeded" else None
        queued = job.state == "queued"
        obstacles = handle.obstacles() if queued else {}
        unattended = queued and handle.is_unattended()
    value = {**tables.plain(job), "attempts": tables.plain(attempts), "obstacles": tables.plain(obstacles)}
    if as_json:
        output.emit(value, as_json, str)
        return
    output.emit(value, as_json, lambda: tables.fields(_described(job, attempts, obstacles, unattended)))
    if made is not None:
        output.emit(made, as_json, lambda: reports.outcome(*made))


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("--after", type=int, default=0, help="Only events with numbers over this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an event.")
def watch(job_id: str, after: int, as_json: bool) -> None:
    """Follow a job until it has ended."""
    with output.open_hub() as hub:
        handle = hub.jobs.get(job_id)
        if as_json:
            for event in handle.events(after=after, follow=True):
                click.echo(event.model_dump_json())
        else:
            following.watch(handle, after=after)
        handle.result()


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an event.")
def events(job_id: str, as_json: bool) -> None:
    """Print what has happened to a job so far."""
    with output.open_hub() as hub:
        for event in hub.events(job_id):
            if as_json:
                click.echo(event.model_dump_json())
            elif line := progress.describe(event):
                tables.console().print(line)


@jobs.command()
@click.argument("job_id", metavar="JOB")
def cancel(job_id: str) -> None:
    """Cancel a job; a running one ends within seconds."""
    with output.open_hub() as hub:
        job = hub.jobs.get(job_id).cancel()
    click.echo(f"{job.id} {'is being cancelled' if job.state == 'running' else job.state}")


@jobs.command()
@click.argument("job_id", metavar="JOB")
@following.job_options
def retry(job_id: str, detach: bool, quiet: bool, as_json: bool) -> None:
    """Submit a failed or cancelled job again, as a new one."""
    with output.open_hub() as hub:
        handle = hub.jobs.get(job_id).retry()
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)


@jobs.command()
@click.option("--days", type=click.FloatRange(min=0), help="Jobs that ended longer ago than this.")
@click.option("--keep", type=click.IntRange(min=0), help="Jobs that ended before the last so many.")
def prune(days: float | None, keep: int | None) -> None:
    """Delete old jobs with their events; versions and their lineage stay.

    FINCH_HISTORY_DAYS and FINCH_HISTORY_JOBS let the workers do so by themselves.
    """
    if days is None and keep is None:
        raise click.UsageError("say which by --days, --keep or both")
    with output.open_hub() as hub:
        count = hub.jobs.prune(older_than=None if days is None else days * DAY_SECONDS, beyond=keep)
    click.echo(f"{tables.counted(count, 'job')} deleted")


def _about(job: Job) -> str:
    try:
        kind = kinds.kind_of(job.kind)
        return kind.about(kind.spec_of(job.spec))
    except errors.FinchError as error:  # another version of Finch Hub submitted it
        return str(error)


def _described(job: Job, attempts: Any, obstacles: Any, unattended: bool) -> dict[str, Any]:
    cancelling = ", cancellation requested" if job.cancel_requested and not job.finished_at else ""
    return {
        "job": job.id,
        "kind": job.kind,
        "about": _about(job),
        "state": job.state.value + cancelling,
        "reason": job.reason,
        "submitted": job.created_at,
        "started": job.started_at,
        "ended": job.finished_at,
        "waits for": job.depends_on or None,
        "attempts": "\n".join(f"{a.fence} on {a.worker}: {a.outcome or 'running'}" for a in attempts) or None,
        "waits": following.NOBODY if unattended else None,
        "no worker fits": "\n".join(f"{name} {', '.join(why)}" for name, why in obstacles.items()) or None,
    }
