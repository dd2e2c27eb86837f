"""Runs of pip side by side, whose progress is printed package by package."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from scripts import lockfile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# After so many seconds without a line, one says what pip is doing.
LONGEST_SILENCE = 3.0
# These would send the packages elsewhere, or change what is read from pip's output.
_IGNORED = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_QUIET", "PIP_VERBOSE", "PIP_PROGRESS_BAR", "PIP_USER")

_COLLECTING = re.compile(r"(?:Collecting|Processing) (?P<what>\S+)")
_PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)")


class InstallationFailed(Exception):
    """A step of the installation failed. The message says what happened, and what to do."""


def make_environment() -> dict[str, str]:
    """Return the variables for pip, which keeps the user's indexes, proxies and certificates."""
    variables = {name: value for name, value in os.environ.items() if name not in _IGNORED}
    # pip would otherwise compare itself with the newest version on the index.
    return {**variables, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def format_bytes(count: int) -> str:
    """Return a size as people read it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"


class PipRun:
    """One run of pip or Python, of which a thread reads the output."""

    def __init__(self, command: list[str], *, held: int) -> None:
        self._purpose, self._advice = (
            "pip",
            "check the network, the proxy and PIP_INDEX_URL, then run the command again",
        )
        if "-c" in command:
            self._purpose = "importing the installed packages"
            self._advice = "install the system libraries that are missing, then run the command again"
        self.activity = ""
        self._output: list[str] = []
        # The child holds the lock of the installation too, so nobody else starts while it lives.
        self.process = subprocess.Popen(
            command,
            env=make_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            pass_fds=(held,),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        package = ""
        for line in self.process.stdout:
            if match := _PROGRESS.search(line):
                done, total = format_bytes(int(match["done"])), format_bytes(int(match["total"]))
                self.activity = f"downloading {package}: {done} of {total}"
                continue
            self._output.append(line)
            if match := _COLLECTING.match(line):
                package = match["what"].rpartition("/")[2]
                self.activity = f"fetching {package}"
            elif line.startswith("Installing collected packages"):
                self.activity = "unpacking"

    def finish(self) -> None:
        """Raise if pip failed, with the end of its output."""
        self._reader.join()
        if self.process.returncode:
            output = "".join(self._output[-25:])
            raise InstallationFailed(f"{self._purpose} failed:\n{output}({self._advice})")


class Progress:
    """Printed lines of the packages that are installed, counted over all runs."""

    def __init__(self, folder: Path, expected: set[str]) -> None:
        self._folder = folder
        self._expected = expected
        self._seen = {path.name for path in folder.glob("*.dist-info")}
        self._count = 0
        self._printed_at = time.monotonic()

    def report(self, runs: list[PipRun]) -> None:
        """Print each newly installed package, or what pip does if that takes long."""
        for path in sorted(self._folder.glob("*.dist-info")):
            # pip writes RECORD last.
            if path.name not in self._seen and (path / "RECORD").exists():
                self._seen.add(path.name)
                name, version = path.name.removesuffix(".dist-info").rsplit("-", 1)
                if lockfile.normalize(name) in self._expected:
                    self._count += 1
                    total = len(self._expected)
                    self._print(f"[{self._count:{len(str(total))}}/{total}] {name} {version}")
        if time.monotonic() - self._printed_at > LONGEST_SILENCE:
            activities = [run.activity for run in runs if run.process.poll() is None and run.activity]
            self._print("  " + ", ".join(activities or ["working"]))

    def _print(self, line: str) -> None:
        print(line, flush=True)
        self._printed_at = time.monotonic()


@contextlib.contextmanager
def _ended(runs: list[PipRun]) -> Iterator[None]:
    try:
        yield
    finally:
        for run in runs:
            if run.process.poll() is None:
                run.process.terminate()
        for run in runs:
            run.process.wait()


def run_together(commands: list[list[str]], progress: Progress, *, held: int) -> None:
    """Run several installations of different packages in one environment at once.

    Raises:
        InstallationFailed: pip failed in one of them.
    """
    runs: list[PipRun] = []
    with _ended(runs):
        runs += [PipRun(command, held=held) for command in commands]
        while any(run.process.poll() is None for run in runs):
            if any(run.process.poll() for run in runs):
                break
            time.sleep(0.2)
            progress.report(runs)
        for run in runs:
            if run.process.poll() is not None:
                run.finish()
        progress.report(runs)


def make_install_command(python: Path, *arguments: str) -> list[str]:
    """Return the command of an installation whose versions are all pinned."""
    command = [str(python), "-I", "-m", "pip", "install", "--no-user", "--no-deps", "--only-binary=:all:"]
    # Most modules are never imported, and Python compiles the others when it imports them first.
    return [*command, "--no-compile", "--progress-bar=raw", *arguments]
