"""Steps of the demo as commands that are shown and then run, with a sign of life at least every few seconds."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

from finch_hub.cli import main as command_line
from finch_hub.cli.output import INTERRUPTED

_SILENT_SECONDS = 8.0
BEGAN = time.monotonic()
_interrupted = threading.Event()


def heading(text: str) -> None:
    """Print the heading of a step, with the time since the start.

    Raises:
        KeyboardInterrupt: the demo was interrupted, and went on.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt
    minutes, seconds = divmod(round(time.monotonic() - BEGAN), 60)
    print(f"\n=== {text}  [{minutes}:{seconds:02}]", flush=True)


def finch_hub(*arguments: str | Path | float) -> None:
    """Show and run one `finch-hub` command, in this process, so that it cannot outlive the demo.

    Raises:
        KeyboardInterrupt: the command was interrupted.
        SystemExit: the command failed and printed the reason.
    """
    words = [str(argument) for argument in arguments]
    print(f"$ finch-hub {shlex.join(words)}", flush=True)
    status = command_line.main(words)
    sys.stdout.flush()
    if status == INTERRUPTED or _interrupted.is_set():
        raise KeyboardInterrupt
    if status:
        sys.exit(f"finch-hub {words[0]} failed with exit code {status} (run the demo again: it continues here)")


def watch_for_interrupts() -> None:
    """Remember Ctrl-C, because libraries can swallow the exception or turn it into another one."""

    def interrupt(number: int, frame: object) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def python(module: str, *arguments: str | Path) -> str:
    """Show and run a module of the demo in a process of its own, and return its output.

    Raises:
        SystemExit: the module failed and printed the reason.
    """
    words = ["-m", module, *(str(argument) for argument in arguments)]
    print(f"$ python {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words], check=False, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{module} failed with exit code {done.returncode} (run the demo again: it continues here)")
    return done.stdout


@contextmanager
def signs_of_life() -> Iterator[None]:
    """Print how long the demo has run whenever it printed nothing for some seconds."""
    out, err = _Watched(sys.stdout), _Watched(sys.stderr)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.5):
            if time.monotonic() - max(out.written_at, err.written_at) > _SILENT_SECONDS:
                minutes, seconds = divmod(round(time.monotonic() - BEGAN), 60)
                # Not to `sys.stderr`, which libraries redirect while they work.
                print(f"  … still at work  [{minutes}:{seconds:02}]", file=err.stream, flush=True)
                err.written_at = time.monotonic()

    thread = threading.Thread(target=beat, daemon=True)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sys.stdout, sys.stderr = out.stream, err.stream


class _Watched:
    """A stream, and the time at which it was last written to."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.written_at = time.monotonic()

    def write(self, text: str) -> int:
        self.written_at = time.monotonic()
        return self.stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)
