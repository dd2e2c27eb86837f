"""Locks and background processes of a home, for its broker and its worker."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import filelock

from finch_hub.settings import Settings

_LOCK_SECONDS = 40.0  # twice the time that a broker may take to start


def exists(settings: Settings) -> bool:
    """Return whether the home of a running worker still exists."""
    return (settings.home / "worker.lock").exists()


def lock(settings: Settings, name: str) -> filelock.BaseFileLock:
    """Return a lock of the home.

    It is "broker" while the broker starts or ends, "worker" while the home's worker runs, and "end" while a client
    requests its end.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return filelock.FileLock(settings.home / f"{name}.lock", mode=0o600, timeout=_LOCK_SECONDS)


def detach(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """Start a process that outlives this one, in a session of its own.

    A shell starts it and ends at once, so that init adopts the process and no zombie is left.
    """
    with log.open("ab") as output:
        subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **environment},
            check=True,
        )
