"""Writes of a hub on a disk with a given number of free bytes; run as a script on a file system of its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finch_hub import Hub, errors, settings
from finch_hub.specs.jobs import ExportSpec
from finch_hub.workers.runs import export as runs
from finch_hub.workers.runs.channel import Channel

ROWS = [(f"What does finch {number} eat?", "It eats seeds. " * 40) for number in range(300)]


def add(hub: Hub, place: Path) -> None:
    hub.datasets.add(ROWS, name="rows")


def purge(hub: Hub, place: Path) -> None:
    hub.datasets.purge("few")


def collect(hub: Hub, place: Path) -> None:
    hub.collect(unused_days=0)


def delete_adapter(hub: Hub, place: Path) -> None:
    hub.adapters.delete("wrens")


def purge_adapter(hub: Hub, place: Path) -> None:
    hub.adapters.purge("wrens")


def import_adapter(hub: Hub, place: Path) -> None:
    hub.import_adapter(place / "adapter", name="birds", base="tiny")


def import_archive(hub: Hub, place: Path) -> None:
    hub.import_adapter(place / "adapter.tar.gz", name="birds", base="tiny")


def fetch(hub: Hub, place: Path) -> None:
    hub.adapters.folder("wrens")


def back_up(hub: Hub, place: Path) -> None:
    hub.back_up(place / "disk" / "backup")


def bundle(hub: Hub, place: Path) -> None:
    hub.bundle(place / "disk" / "wrens.bundle", ["wrens"])


def unbundle(hub: Hub, place: Path) -> None:
    hub.unbundle(place / "finches.bundle")


def train(hub: Hub, place: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hub.train(ROWS, adapter="owls", base="tiny")


def add_base(hub: Hub, place: Path) -> None:
    hub.bases.add(place / "base", name="other", replace=True)


def convert(hub: Hub, place: Path) -> None:
    hub.bases.add(place / "tiny.gguf", name="converted")


def export(hub: Hub, place: Path, format_: str, **parameters: Any) -> None:
    """Export an adapter as the child of a worker does."""
    spec = ExportSpec(adapter="wrens", format=format_, out=str(place / "disk" / "out"), parameters=parameters)
    (job,) = hub.jobs.find(kind="export")
    order = runs.prepare(spec, job, hub._stores, place / "work")
    runs.execute(order, Channel(io.BytesIO()))


def export_peft(hub: Hub, place: Path) -> None:
    export(hub, place, "peft")


def export_vllm(hub: Hub, place: Path) -> None:
    export(hub, place, "vllm")


def export_gguf(hub: Hub, place: Path) -> None:
    export(hub, place, "gguf")


def export_ollama(hub: Hub, place: Path) -> None:
    export(hub, place, "ollama", base_model="finch")


def export_merged(hub: Hub, place: Path) -> None:
    export(hub, place, "merged")


def save(hub: Hub, place: Path) -> None:
    """Save the output of a job that a worker elsewhere has made."""
    (job,) = hub.jobs.find(kind="export")
    hub.jobs.get(job.id).save(place / "disk" / "out")


ACTIONS: dict[str, Callable[[Hub, Path], None]] = {
    action.__name__: action
    for action in (
        *(
            add,
            purge,
            collect,
            delete_adapter,
            purge_adapter,
            import_adapter,
            fetch,
            back_up,
            train,
            add_base,
            convert,
            import_archive,
            save,
        ),
        *(bundle, unbundle),
        *(export_peft, export_vllm, export_gguf, export_ollama, export_merged),
    )
}


def open_hub(home: Path) -> Hub:
    return Hub(settings.load(home=home, broker_url=os.environ["FULL_DISK_BROKER"]))


def fill(disk: Path, free: int) -> None:
    """Fill the disk up to a number of free bytes."""
    left = os.statvfs(disk)
    size = left.f_bavail * left.f_frsize - free
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, max(size, 1))


def check(hub: Hub) -> None:
    """Everything that is counted can be read, and nothing half-written is left in view."""
    for dataset in hub.datasets.find():
        if dataset.purged_at is None:
            assert len(list(hub._stores.artifacts.read_lines(dataset.digest))) == dataset.examples
    for adapter in hub.adapters.overview().adapters:
        hub.adapters.folder(adapter.newest.reference)
    for job in hub.jobs.find(kind="train"):
        assert job.state == "queued"


def main() -> None:
    place, name, sizes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    disk = place / "disk"
    tempfile.tempdir = str(disk)
    faults = []
    for free in sizes:
        shutil.copytree(place / "home", disk / "home")
        hub = open_hub(disk / "home")
        outcome = "done"
        fill(disk, free)
        try:
            ACTIONS[name](hub, place)
        except errors.FinchError as error:
            text = str(error)
            outcome = "refused"
            if not any(part in text for part in ("free some", "free space", "disk is full")):
                faults.append(f"{free}: {text}")
        except Exception as error:
            outcome = "internal"
            faults.append(f"{free}: internal error {error!r}: {traceback.format_exc()[-700:]}")
        hub.close()
        (disk / "filler").unlink()
        try:
            with open_hub(disk / "home") as again:
                check(again)
                if outcome != "done" and name != "fetch":
                    ACTIONS[name](again, place)
                    check(again)
        except Exception as error:
            faults.append(f"{free}: {outcome}, then {error!r}")
        for left in disk.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
    print(json.dumps(faults))


if __name__ == "__main__":
    main()
