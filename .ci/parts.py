"""Checks that a change must pass: what always runs, and one long part that the commit's hash chooses.

Only the standard library, since this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TOTAL_MINUTES = 72
_OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")


class Part(NamedTuple):
    """A command of `make` with a time limit, which a machine of half the usual speed keeps too."""

    name: str
    command: str  # `{seed}` is a number that follows from the commit
    minutes: float

    @property
    def target(self) -> str:
        """Target of the Makefile."""
        return self.command.split()[0]


ALWAYS = (
    Part("check", "check", 8),  # with the installation
    Part("test", "test", 45),
    Part("demo", "demo DEMO=--small", 8),
)
CHOSEN = (
    *(Part(f"faults-sqlite-{share}", f"faults-sqlite SHARE={share}/3", 11) for share in (1, 2, 3)),
    *(Part(f"faults-postgresql-{share}", f"faults-postgresql SHARE={share}/4", 11) for share in (1, 2, 3, 4)),
    Part("chaos", "chaos SEED={seed} SECONDS=240", 11),
    *(Part(f"slow-{share}", f"test-slow SHARE={share}/4", 11) for share in (1, 2, 3, 4)),
    Part("fuzz", "fuzz SEED={seed} SECONDS=10", 11),
    Part("lowest", "test-lowest", 11),
    Part("wheel", "test-wheel", 11),
)


def choose(commit: str, parts: tuple[Part, ...]) -> Part:
    """Return the long part of a commit. Each commit always has the same one, and all are equally frequent."""
    return parts[seed_of(commit) % len(parts)]


def seed_of(commit: str) -> int:
    """Return a number below 2**32 that follows from the commit."""
    return int.from_bytes(hashlib.sha256(commit.encode()).digest()[:4], "big")


def available(parts: tuple[Part, ...], makefile: str) -> tuple[Part, ...]:
    """Return the parts whose target the Makefile has."""
    targets = {line.split(":")[0] for line in makefile.splitlines() if ":" in line}
    return tuple(part for part in parts if part.target in targets)


def run(part: Part, commit: str) -> int:
    """Run a part and return its exit status. End it, with what it started, if its time is over."""
    words = part.command.format(seed=seed_of(commit)).split()
    home = tempfile.mkdtemp(prefix="finch-ci-")  # of the demo, which would continue in that of the checkout
    started = time.monotonic()
    print(f"== {part.name}: make {' '.join(words)} (at most {part.minutes:g} minutes)", flush=True)
    # Without the variables of a `make` that runs this: they would change the output, and the number of processes.
    environment = {name: value for name, value in os.environ.items() if name not in _OF_MAKE}
    process = subprocess.Popen(["make", *words, f"DEMO_HOME={home}"], cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(part.minutes * 60)
    except subprocess.TimeoutExpired:
        print(f"== {part.name}: FAILED: not finished after {part.minutes:g} minutes", flush=True)
        status = 124
    finally:
        _end(process)
        _stop_worker(home)
        shutil.rmtree(home, ignore_errors=True)
    print(f"== {part.name}: exit status {status} after {time.monotonic() - started:.0f} s", flush=True)
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that the arguments ask for, up to the first that fails, and return its exit status."""
    parser = argparse.ArgumentParser(prog=".ci/run", description=__doc__)
    every = (*ALWAYS, *CHOSEN)
    parser.add_argument("--part", choices=[part.name for part in every], help="run this part alone")
    parser.add_argument("--list", action="store_true", help="list all parts with their commands, and run nothing")
    parser.add_argument("--commit", help="choose as for this commit (default: the current one)")
    options = parser.parse_args(arguments)
    commit = options.commit or _head()
    if options.list:
        for part in every:
            print(f"{part.name:22}make {part.command.format(seed=seed_of(commit))}")
        return 0
    if options.part:
        parts: tuple[Part, ...] = tuple(part for part in every if part.name == options.part)
    else:
        long = choose(commit, available(CHOSEN, (ROOT / "Makefile").read_text(encoding="utf-8")))
        parts = (*ALWAYS, long)
        print(f"Commit {commit[:12]} runs {', '.join(part.name for part in parts)}.")
        print(f"The last one follows from the commit's hash. By hand: .ci/run --part {long.name}", flush=True)
    for part in parts:
        if status := run(part, commit):
            print(f"Failed: {part.name}. By hand: .ci/run --part {part.name} --commit {commit}", file=sys.stderr)
            return status if status > 0 else 1
    return 0


def _head() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:  # such as an archive without its history
        print(f"No commit: {found.stderr.strip()}. The part is chosen for the commit 'none'.", file=sys.stderr)
        return "none"
    return found.stdout.strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group, also what outlived `make`."""
    for number, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.1)


def _stop_worker(home: str) -> None:
    """Stop the worker of the demo, which would run until its idle time ends."""
    command = ROOT / ".venv" / "bin" / "finch-hub"
    if command.exists() and Path(home, "finch.db").exists():
        environment = {**os.environ, "FINCH_HOME": home}
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([command, "worker", "stop"], env=environment, capture_output=True, timeout=60)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part that runs is ended too
    sys.exit(main())
