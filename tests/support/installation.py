"""A hub with workers, and all that its commands print."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from support.fleet import Fleet, WorkerProcess

from finch_hub.cli import main
from finch_hub.display import tables

MAIN = "import sys; from finch_hub.cli import main; sys.exit(main.main(sys.argv[1:]))"


@dataclass(kw_only=True)
class Installation:
    """A hub with hostile inputs, and all that its commands have printed.

    Attributes:
        stdout: standard output of the last command that ran in this process.

    """

    workers: Fleet
    inputs: Path
    variables: dict[str, str]
    capture: pytest.CaptureFixture[str]
    printed: list[bytes] = field(default_factory=list)
    command_lines: list[str] = field(default_factory=list)
    stdout: str = ""

    def run(self, *words: str, status: int | None = 0, **environment: str) -> str:
        """Run a command in this process, without plugins, and return what it printed."""
        tables.console.cache_clear()  # it keeps the stream of the previous command
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("default")
            for name, value in {**self.workers.environment, **self.variables, **environment}.items():
                patch.setenv(name, value)
            ended = main.main(words)
        self.note_command_lines()
        self.stdout, stderr = self.capture.readouterr()
        text = self.stdout + stderr
        self.printed.append(text.encode())
        assert status is None or ended == status, text
        return text

    def run_outside(self, *words: str, status: int | None = 0, **environment: str) -> str:
        """Run a command in a process of its own, with plugins, and return what it printed."""
        ran = subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            env={**os.environ, **self.workers.environment, **self.variables, **environment},
            capture_output=True,
            timeout=300,
        )
        self.printed.append(ran.stdout + ran.stderr)
        self.note_command_lines()
        text = self.printed[-1].decode()
        assert status is None or ran.returncode == status, text
        return text

    def start(self, name: str, **environment: str) -> WorkerProcess:
        self.workers.environment.update(self.variables | environment)
        return self.workers.start(name)

    def note_command_lines(self) -> None:
        for process in self.workers.processes():
            with contextlib.suppress(psutil.Error):
                self.command_lines.append(" ".join(process.cmdline()))
