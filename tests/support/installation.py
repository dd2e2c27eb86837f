"""A hub with workers, and all that its commands print."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from support.fleet import Fleet, WorkerProcess

MAIN = "import sys; from finch_hub.cli import main; sys.exit(main.main(sys.argv[1:]))"


@dataclass(kw_only=True)
class Installation:
    """A hub with hostile inputs, and all that its commands have printed."""

    workers: Fleet
    inputs: Path
    variables: dict[str, str]
    printed: list[bytes] = field(default_factory=list)
    command_lines: list[str] = field(default_factory=list)

    def run(self, *words: str, status: int | None = 0, **environment: str) -> str:
        """Run a command in a process of its own and return what it printed."""
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
