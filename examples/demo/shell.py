"""The demo's way to do things: every step is a command as a user would type it, shown and then run."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

_FINCH_HUB = Path(sys.executable).with_name("finch-hub")
_BEGAN = time.monotonic()


def heading(text: str) -> None:
    """Begin a part of the demo, with the time that it began at."""
    minutes, seconds = divmod(round(time.monotonic() - _BEGAN), 60)
    print(f"\n=== {text}  [{minutes}:{seconds:02}]", flush=True)


def finch_hub(*arguments: str | Path | float) -> None:
    """Show and run one `finch-hub` command.

    Raises:
        SystemExit: the command failed; it has said why.

    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ finch-hub {shlex.join(words)}", flush=True)
    status = subprocess.run([_FINCH_HUB, *words], check=False).returncode
    if status:
        sys.exit(f"finch-hub {words[0]} ended with {status}")


def python(module: str, *arguments: str | Path) -> None:
    """Run a module of the demo in a process of its own, and show it."""
    words = ["-m", module, *(str(argument) for argument in arguments)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True)
