"""The start of a command: help, lists and the completion of a name, beside a bare Python, MLflow and PEFT.

Each command is a process of its own, and the commands take turns. Of the rounds, the computing time (user and system)
of the fastest is compared, which other work on the machine changes least, and the median of the time on the clock is
told besides. `times` is the computing time over that of a bare Python; goals are 6 for the help and 25 for lists and
completion. `ratio` is that of MLflow's help over our list of adapters, with a goal of 2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import mlflow_peer
import sqlalchemy as sa
from support import registry

from finch_hub import settings
from finch_hub.registry import adapter_versions, jobs, tables, types, values
from finch_hub.specs.jobs import JobState
from finch_hub.storage.stores import open_stores

ADAPTERS, VERSIONS, JOBS = 20, 3, 60
BARE, HELP, LIST, PEER = "python", "help", "adapters list", "mlflow --help"
GOALS = {HELP: 6, LIST: 25, "jobs list": 25, "completion": 25}

# Without this variable, compiled modules are kept, as they are for users.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Side(NamedTuple):
    """A command, with its further environment variables, and a text that its output has."""

    words: Sequence[str]
    expected: str
    environment: Mapping[str, str]


def fill(home: Path) -> str:
    """Make a hub with some adapters and ended jobs, and return the id of the newest job."""
    stores = open_stores(settings.load(home=home))
    base = registry.add_base(stores.database)
    with stores.database.write() as session:
        for number in range(ADAPTERS * VERSIONS):
            digest = f"{number:064x}"
            adapter_versions.create(
                session, name=f"adapter-{number % ADAPTERS}", digest=digest, identity=digest, base=base, kind="train",
                metrics={"loss_before": 3.0, "loss_after": 2.0, "rank": 16},
            )  # fmt: skip
        submitted = jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec())] * JOBS)
        session.execute(sa.update(tables.jobs).values(state=JobState.SUCCEEDED, finished_at=types.now(), ring_at=None))
    stores.database.close()
    return submitted[-1].id


def list_sides(home: Path, job_id: str, mlflow: Path | None) -> dict[str, Side]:
    ours = str(Path(sys.executable).parent / "finch-hub")
    hub = {"FINCH_HOME": str(home)}
    asked = ("finch-hub", "adapters", "show", "adapter-1")
    completion = {
        "_FINCH_HUB_COMPLETE": "bash_complete",  # as the script of bash asks
        "COMP_WORDS": "\n".join(asked),
        "COMP_CWORD": str(len(asked) - 1),
    }
    sides = {
        BARE: Side((sys.executable, "-c", "pass"), "", {}),
        HELP: Side((ours, "--help"), "Commands:", hub),
        LIST: Side((ours, "adapters", "list", "--quiet"), "adapter-7", hub),
        "jobs list": Side((ours, "jobs", "list", "--quiet"), job_id, hub),
        "completion": Side((ours,), "adapter-19", {**hub, **completion}),
        "import peft": Side((sys.executable, "-c", "import peft"), "", {}),
    }
    if mlflow is not None:
        sides[PEER] = Side((str(mlflow / "mlflow"), "--help"), "Commands:", {})
    return sides


def run(side: Side) -> tuple[float, float]:
    """Run a command, and return the seconds on the clock and those of computing."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(side.words, stdout=output, env={**_ENVIRONMENT, **side.environment})
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        written = output.read().decode()
    if process.returncode or side.expected not in written:
        sys.exit(f"{' '.join(side.words)} failed: status {process.returncode}, and wrote {written[-300:]!r}")
    return wall, used.ru_utime + used.ru_stime


def measure(sides: Mapping[str, Side], rounds: int) -> dict[str, dict[str, float]]:
    for side in sides.values():  # files that are read and compiled for the first time count for none
        run(side)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name, side in sides.items():
            taken[name].append(run(side))
    bare = min(cpu for _, cpu in taken[BARE])
    found = {}
    for name, runs in taken.items():
        walls, cpus = zip(*runs, strict=True)
        cpu = min(cpus)
        found[name] = {
            "cpu_ms": round(1000 * cpu, 1),
            "wall_median_ms": round(1000 * statistics.median(walls), 1),
            "times": round(cpu / bare, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--without-mlflow", action="store_true", help="leave out MLflow, which is installed otherwise")
    options = parser.parse_args()
    mlflow = None if options.without_mlflow else mlflow_peer.install()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        job_id = fill(home)
        found = measure(list_sides(home, job_id, mlflow), options.rounds)
    report: dict[str, Any] = {"name": "startup", "machine": platform.platform(), "load": round(os.getloadavg()[0], 1)}
    report["sides"] = found
    report["missed"] = [name for name, goal in GOALS.items() if found[name]["times"] > goal]
    if PEER in found:
        ours, peer = found[LIST]["cpu_ms"], found[PEER]["cpu_ms"]
        report |= {"ours": ours, "peer": peer, "ratio": round(peer / ours, 3)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
