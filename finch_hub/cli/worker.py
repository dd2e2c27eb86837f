"""`finch-hub worker`."""

from __future__ import annotations

import click

from finch_hub.cli import output
from finch_hub.display import tables


@click.group()
def worker() -> None:
    """Start, list, drain and stop workers.

    With nothing configured a worker is started when a job is submitted, and ends when it has been idle for a while.
    """


@worker.command()
@click.option("--name", help="Its name; else made of host and process.")
@click.option("--slots", type=click.IntRange(min=1), help="Jobs at a time; else one for each device.")
@click.option("--queue", "queues", multiple=True, default=("default",), show_default=True, help="Queue to serve.")
@click.option("--label", "labels", multiple=True, help="What jobs can ask for; repeat it for several.")
def start(name: str | None, slots: int | None, queues: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Run a worker in the foreground until it is told to end.

    SIGTERM or Ctrl-C checkpoints what runs and hands it back; a second one ends at once.
    """
    from finch_hub import settings
    from finch_hub.workers import worker as module

    return module.start(settings.load(), name=name, slots=slots, queues=queues, labels=labels)


@worker.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """List the workers: devices, memory, jobs, last sign of life."""
    with output.open_hub() as hub:
        found = hub.workers.find()
    rows = [
        (
            each.id,
            each.state,
            "\n".join(
                f"{device.name} ({tables.size(device.free_bytes)} of {tables.size(device.memory_bytes)} free)"
                for device in each.devices
            ),
            f"{len(each.jobs)} of {each.slots}",
            each.jobs,
            each.queues,
            each.labels,
            each.version,
            each.last_seen,
        )
        for each in found
    ]
    columns = ("worker", "state", "devices", "busy", "jobs", "queues", "labels", "version", "last seen")
    output.emit(found, as_json, lambda: tables.table(columns, rows))


@worker.command()
def health() -> int:
    """Exit with 0 if a worker of this host is alive, else with 1; for containers and services."""
    import socket

    from finch_hub import settings
    from finch_hub.workers.supervision import health as module

    names = module.living(settings.load(), socket.gethostname())
    click.echo(" ".join(names) or "no worker of this host is alive")
    return 0 if names else 1


@worker.command()
@click.argument("name")
def drain(name: str) -> None:
    """Let a worker finish what it runs, take nothing more, and end."""
    with output.open_hub() as hub:
        hub.workers.drain(name)
    click.echo(f"{name} takes no more jobs and ends when its last one has")


@worker.command()
@click.argument("name", required=False)
def stop(name: str | None) -> None:
    """End a worker; its jobs are checkpointed and handed back.

    Without NAME it is the one that was started on demand in this home, with its broker; returns once it has ended.
    """
    with output.open_hub() as hub:
        if name is not None:
            hub.workers.stop(name)
            click.echo(f"{name} hands its jobs back and ends")
        else:
            click.echo("the worker has ended" if hub.workers.stop_own() else "no worker runs in this home")
