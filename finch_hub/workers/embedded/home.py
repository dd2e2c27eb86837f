"""What the home's broker and its worker share: locks, and processes that outlive whoever starts them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import filelock

from finch_hub.settings import Settings

_LOCK_SECONDS = 40.0  # twice what a broker may take to start


def exists(settings: Settings) -> bool:
    """Tell whether the home of a running worker is still there."""
    return (settings.home / "worker.lock").exists()


def lock(settings: Settings, name: str) -> filelock.BaseFileLock:
    """Return a lock of the home, which is made if it is not there."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return filelock.FileLock(settings.home / f"{name}.lock", mode=0o600, timeout=_LOCK_SECONDS)


def detach(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """Start a process that is nobody's child, in a session of its own: it outlives us and leaves us no zombie."""
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
