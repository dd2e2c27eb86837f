"""`finch-hub worker`."""

from __future__ import annotations

import click

from finch_hub.cli import completion, output
from finch_hub.display import tables


@click.group()
def worker() -> None:
    """Start, list, drain and stop workers.

    Without configuration a worker starts when a job is submitted, and stops when it has been idle for a while.
    """


@worker.command()
@click.option("--name", help="Name of the worker.  [default: made of host and process]")
@click.option("--slots", type=click.IntRange(1, 1000), help="Number of jobs at a time.  [default: one per device]")
@click.option(
    "--queue", "queues", multiple=True, default=("default",), show_default=True, help="Queue to serve. Can be repeated."
)
@click.option("--label", "labels", multiple=True, help="Label that jobs can require. Can be repeated.")
def start(name: str | None, slots: int | None, queues: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Run a worker in the foreground.

    SIGTERM or Ctrl-C checkpoints the current jobs, puts them back into the queue and stops the worker. A second signal
    stops it at once.
    """
    from finch_hub import settings
    from finch_hub.workers.logs.setup import LogStream, set_up_logging
    from finch_hub.workers.worker import Worker

    loaded = settings.load()
    set_up_logging(loaded, LogStream())
    return Worker(loaded, name=name, slots=slots, queues=queues, labels=labels).run()


@worker.command("list")
@output.list_options
def list_(quiet: bool, as_json: bool) -> None:
    """List the workers with devices, memory, jobs and last heartbeat, and why some claim no jobs."""
    with output.open_hub() as hub:
        workers = hub.workers.find()
    rows = []
    for w in workers:
        devices = tables.Lines(f"{d.name} ({tables.format_free(d.free_bytes, d.memory_bytes)})" for d in w.devices)
        busy = f"{len(w.jobs)} of {w.slots}"
        rows.append((w.id, w.state, w.remark, devices, busy, w.jobs, w.queues, w.labels, w.version, w.last_seen))
    columns = (
        "worker",
        "state",
        "claims no jobs",
        "devices",
        "busy",
        "jobs",
        "queues",
        "labels",
        "version",
        "last seen",
    )
    empty, advice = "There are no workers.", ("Start one", "worker", "start")
    output.emit_list(workers, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)


@worker.command()
@output.json_option
def health(as_json: bool) -> int:
    """Exit with 0 if the database knows a running worker of this host, else with 1.

    Probes of containers ask for the files in FINCH_HEALTH_FOLDER instead, which takes less time.
    """
    from finch_hub import settings
    from finch_hub.workers.hostname import find_hostname
    from finch_hub.workers.supervision import health as module

    names = module.find_living(settings.load(), find_hostname())
    output.emit({"workers": names}, as_json, lambda: " ".join(names) or "no worker runs on this host")
    return 0 if names else 1


@worker.command()
@click.argument("name", shell_complete=completion.complete_workers)
def drain(name: str) -> None:
    """Let a worker finish its current jobs, accept no new ones, and stop."""
    with output.open_hub() as hub:
        hub.workers.drain(name)
    output.say(f"Worker {name} accepts no new jobs and stops after its current jobs")
    output.suggest("Check its state", "worker", "list")


@worker.command()
@click.argument("name", required=False, shell_complete=completion.complete_workers)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the worker has stopped.")
def stop(name: str | None, wait: bool) -> None:
    """Stop a worker. Its jobs are checkpointed and put back into the queue.

    Without NAME the command stops the worker that was started on demand in this home, with its broker.
    """
    if name is None and not wait:
        raise click.UsageError("--no-wait is for a worker that is named: the worker of this home is waited for")
    with output.open_hub(deletes=True) as hub:  # a full disk keeps no worker from being stopped
        if name is not None:
            hub.workers.stop(name)
            if wait:
                output.tell(f"Worker {name} puts its jobs back into the queue. Waiting until it has stopped …")
                state = hub.workers.wait_until_stopped(name).state
                silent = " sends no heartbeats any more, so it was probably killed"
                output.say(f"Stopped worker {name}" if state == "stopped" else f"Worker {name}{silent}")
            else:
                output.say(f"Worker {name} puts its jobs back into the queue and stops")
                output.suggest("Check its state", "worker", "list")
        else:
            output.say("Stopped the worker of this home" if hub.workers.stop_own() else "No worker runs in this home")
