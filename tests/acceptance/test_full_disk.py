"""A disk with any number of free bytes: writes succeed or say that it is full, and nothing half-written counts."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import full_disk, registry
from support.adapters import save_adapter
from support.gguf_files import save_gguf

from finch_hub import Hub, settings
from finch_hub.specs.jobs import ExportSpec
from finch_hub.storage import outputs
from finch_hub.workers.runs import export
from finch_hub.workers.runs.channel import Channel

BROKER = "redis://127.0.0.1:1/0"  # nobody listens there: jobs stay queued
STEP = 4096  # the smallest number of bytes that such a file system gives away
MEGABYTE = 2**20
SCRIPT = 'mount -t tmpfs -o size=12m none "$1"; shift; exec "$@"'


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Return a folder with a home that has a base, a data set and an adapter, and with another adapter."""
    place = tmp_path_factory.mktemp("prepared")
    for seed, name in enumerate(("wrens", "adapter")):
        save_adapter(tiny_folder, place / name, seed=seed, r=4, target_modules=["q_proj", "v_proj"])
    with Hub(settings.load(home=place / "home", broker_url=BROKER)) as hub:
        hub.bases.add(tiny_folder, name="tiny")
        hub.datasets.add([(f"Who is finch number {number}?", "A bird.") for number in range(20)], name="few")
        hub.import_adapter(place / "wrens", name="wrens", base="tiny")
        store_output(hub, place / "made")
    with Hub(settings.load(home=place / "elsewhere", broker_url=BROKER)) as hub:
        hub.bases.add(tiny_folder, name="tiny")
        hub.import_adapter(place / "adapter", name="finches", base="tiny")
        hub.bundle(place / "finches.bundle", ["finches"])
    shutil.rmtree(place / "elsewhere")
    shutil.rmtree(place / "home" / "cache", ignore_errors=True)
    shutil.copytree(tiny_folder, place / "base")
    shutil.make_archive(str(place / "adapter"), "gztar", place / "adapter")
    save_gguf(tiny_folder, place / "tiny.gguf")
    return place


def store_output(hub: Hub, made: Path) -> None:
    """Let a job export the adapter on another machine, and store its output."""
    stores = hub._stores
    spec = ExportSpec(adapter="wrens", format="peft", out=str(made))
    job = registry.claimed(stores.database, job_id=registry.submit(stores.database, spec=spec).id)
    work = made.with_name("work")
    order = export.prepare(spec, job, stores, work)
    report = export.execute(order, Channel(io.BytesIO())).report.model_dump(mode="json")
    stored = outputs.store_output(made, job, stores.artifacts)
    registry.succeed(stores.database, job, report=report, output=stored.model_dump(mode="json"))
    shutil.rmtree(work)


def find_faults(prepared: Path, place: Path, action: str, sizes: Sequence[int]) -> list[str]:
    """Do the same with each number of free bytes, and return what went wrong."""
    shutil.copytree(prepared, place, dirs_exist_ok=True)
    (place / "disk").mkdir()
    command = [sys.executable, full_disk.__file__, str(place), action, json.dumps(list(sizes))]
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-ec", SCRIPT, "sh", str(place / "disk")]
    if (probe := subprocess.run([*inside, "true"], capture_output=True)).returncode:
        pytest.skip(f"this machine lets nobody mount a file system: {probe.stderr.decode().strip()}")
    paths = os.pathsep.join([str(Path(full_disk.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "FULL_DISK_BROKER": BROKER, "PYTHONPATH": paths}
    done = subprocess.run([*inside, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    faults: list[str] = json.loads(done.stdout.splitlines()[-1])
    return faults


@pytest.mark.slow
@pytest.mark.parametrize("action", full_disk.ACTIONS)
def test_some_free_bytes(prepared: Path, tmp_path: Path, action: str) -> None:
    sizes = range(0, MEGABYTE, 32 * STEP)
    assert find_faults(prepared, tmp_path, action, sizes if action != "convert" else sizes[1:2]) == []


@pytest.mark.slow
@pytest.mark.parametrize("action", full_disk.ACTIONS)
def test_every_number_of_free_bytes_of_the_first_megabyte(prepared: Path, tmp_path: Path, action: str) -> None:
    sizes = range(0, MEGABYTE + 1, STEP)
    assert find_faults(prepared, tmp_path, action, sizes if action != "convert" else sizes[8::64]) == []
