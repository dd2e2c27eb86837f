"""Steps of the demo as commands that are shown and then run."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

_FINCH_HUB = Path(sys.executable).with_name("finch-hub")
_BEGAN = time.monotonic()


def heading(text: str) -> None:
    """Print the heading of a step, with the time since the start."""
    minutes, seconds = divmod(round(time.monotonic() - _BEGAN), 60)
    print(f"\n=== {text}  [{minutes}:{seconds:02}]", flush=True)


def finch_hub(*arguments: str | Path | float) -> None:
    """Show and run one `finch-hub` command.

    Raises:
        SystemExit: the command failed and printed the reason.

    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ finch-hub {shlex.join(words)}", flush=True)
    status = subprocess.run([_FINCH_HUB, *words], check=False).returncode
    if status:
        sys.exit(f"finch-hub {words[0]} failed with exit code {status}")


def python(module: str, *arguments: str | Path) -> None:
    """Show and run a module of the demo in a process of its own."""
    words = ["-m", module, *(str(argument) for argument in arguments)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True)
