"""A job's events as they come: a live bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finch_hub.cli import output
from finch_hub.display import progress, reports

if TYPE_CHECKING:
    from finch_hub.hub import JobHandle

Command = TypeVar("Command", bound=Callable[..., Any])

NOBODY = "no worker is alive: start one with `finch-hub worker start`"


def job_options(command: Command) -> Command:
    """Add what every command that submits a job has: `--detach`, `--quiet` and `--json`."""
    command = output.json_option(command)
    command = click.option("--quiet", is_flag=True, help="Show no progress.")(command)
    return click.option("--detach", is_flag=True, help="Submit only; print the job's id.")(command)


def conclude(handle: JobHandle, *, detach: bool, quiet: bool, as_json: bool) -> None:
    """Follow a submitted job to its end and print what it made; with `detach` print its id alone.

    Raises:
        JobFailed: the job failed.
        JobCancelled: somebody cancelled it.

    """
    if detach:
        job = handle.refresh()
        for warning in _obstacles(handle):
            click.echo(warning, err=True)
        output.emit(job, as_json, lambda: job.id)
        click.echo(f"{job.state}; follow it: {_watch(handle)}", err=True)
        return
    watch(handle, quiet=quiet)
    result, report = handle.result(), handle.report()
    value = {"job": handle.refresh(), "result": result, "report": report}
    output.emit(value, as_json, lambda: reports.outcome(result, report))


def watch(handle: JobHandle, *, quiet: bool = False, after: int = 0) -> None:
    """Show a job's events until it has ended; an interruption leaves the job running and says how to cancel it."""
    try:
        with progress.view(quiet=quiet) as shown:
            for warning in _obstacles(handle):
                shown.write(warning)
            for event in handle.events(after=after, follow=True):
                shown.show(event)
    except KeyboardInterrupt:
        click.echo(
            f"\n{handle.id} goes on without you. Follow it: {_watch(handle)}   "
            f"Cancel it: finch-hub jobs cancel {handle.id}",
            err=True,
        )
        raise


def _obstacles(handle: JobHandle) -> list[str]:
    if handle.is_unattended():
        return [f"warning: {NOBODY}"]
    return [
        f"warning: worker {worker} cannot run this job: it {', '.join(reasons)}"
        for worker, reasons in handle.obstacles().items()
    ]


def _watch(handle: JobHandle) -> str:
    return f"finch-hub jobs watch {handle.id}"
