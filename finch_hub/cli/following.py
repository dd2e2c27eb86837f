"""Jobs that a command submits: followed to their end, or left to run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from finch_hub import errors
from finch_hub.cli import output
from finch_hub.cli.output import Command
from finch_hub.display import progress, reports

if TYPE_CHECKING:
    from finch_hub.hub.jobs import JobHandle


def job_options(command: Command) -> Command:
    """Add `--detach`, `--quiet` and `--json`, which every command that submits a job has."""
    command = output.json_option(command)
    command = click.option("--quiet", is_flag=True, help="Print only the id of the version, or of a job without one.")(
        command
    )
    return click.option("--detach", is_flag=True, help="Submit the job and print its id only.")(command)


def job_command(submit: Callable[..., JobHandle | None]) -> Callable[..., Any]:
    """Turn a function that submits a job with the hub into a command that concludes the job."""

    @functools.wraps(submit)
    def submit_and_conclude(*, detach: bool, quiet: bool, as_json: bool, **arguments: Any) -> None:
        with output.open_hub() as hub:
            if (handle := submit(hub, **arguments)) is not None:
                conclude(handle, detach=detach, quiet=quiet, as_json=as_json)

    return job_options(submit_and_conclude)


def conclude(handle: JobHandle, *, detach: bool, quiet: bool, as_json: bool) -> None:
    """Follow a submitted job to its end and print its result, or only its id with `detach`.

    Raises:
        JobFailed: the job failed.
        JobCancelled: the job was cancelled.
    """
    if detach:
        job = handle.refresh()
        for warning in handle.list_warnings():
            output.tell(warning)
        output.emit(job, as_json, lambda: job.id)
        output.suggest(f"Submitted job {job.id} ({job.state}). Follow it", "jobs", "watch", job.id)
        return
    watch(handle, quiet=quiet)
    with progress.show_advances(quiet=quiet):
        try:
            result, report = handle.result(), handle.report()
        except (errors.JobFailed, errors.JobCancelled):
            suggest_next(handle, as_json=as_json)
            raise
    if quiet and not as_json:
        output.say(getattr(result, "reference", handle.id))
        return
    value = {"job": handle.refresh(), "result": result, "report": report}
    output.emit(value, as_json, lambda: reports.draw_result(result, report))
    suggest_next(handle, as_json=as_json)


def suggest_next(handle: JobHandle, *, as_json: bool) -> None:
    """Print what a user may do after the end of a job."""
    job = handle.refresh()
    spec, made = job.spec, (job.result or {}).get("adapter")
    if job.state == "failed":
        output.suggest("Read what happened", "jobs", "logs", job.id, as_json=as_json)
    if job.state in ("failed", "cancelled"):
        output.suggest("Submit it again", "jobs", "retry", job.id, as_json=as_json)
    elif made is not None:
        output.suggest("Try it", "chat", made, "--with", "base", as_json=as_json)
    elif job.kind == "merge":
        output.suggest("Use it as a base", "bases", "add", str(spec.get("out")), as_json=as_json)
    elif job.kind in ("export", "reproduce"):
        output.suggest("Look at the adapter", "adapters", "show", str(spec.get("adapter")), as_json=as_json)
    elif job.kind == "evaluate" and spec.get("adapters"):
        output.suggest("Look at the adapter", "adapters", "show", str(spec["adapters"][0]), as_json=as_json)


def watch(handle: JobHandle, *, quiet: bool = False, after: int = 0) -> None:
    """Show a job's events until it has ended, and why no worker runs it. After Ctrl-C the job continues."""
    try:
        with progress.open_view(quiet=quiet) as view:
            view.write(f"- job {handle.id}")
            handle.follow(after=after, view=view)
    except KeyboardInterrupt:
        output.tell("")  # behind the ^C of the terminal
        output.tell(f"Stopped following job {handle.id}. It continues in the background.")
        output.suggest("Follow it again", "jobs", "watch", handle.id)
        output.suggest("Cancel it", "jobs", "cancel", handle.id)
        raise
