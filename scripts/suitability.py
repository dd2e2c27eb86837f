"""Check of the Python and the system that an installation starts with.

This module and those that `scripts.install` imports first must also parse and run on Pythons that are too old.
"""

from __future__ import annotations

import importlib.util
import sys

OLDEST = (3, 11)
NEWEST = (3, 14)


def find_obstacle(version: tuple[int, ...] = sys.version_info[:2], platform: str = sys.platform) -> str | None:
    """Return why Finch Hub cannot be installed with this Python, or None."""
    if platform not in ("linux", "darwin"):
        return (
            f"Finch Hub does not run on {platform}: it needs fork, POSIX signals and Unix sockets "
            "(use Linux or macOS, or WSL on Windows)"
        )
    found = f"{sys.executable or 'this Python'} is {version[0]}.{version[1]}"
    advice = f"set PYTHON, for example make install PYTHON=python{OLDEST[0]}.{OLDEST[1]}"
    if version < OLDEST:
        return f"Finch Hub needs Python {OLDEST[0]}.{OLDEST[1]} or newer: {found} ({advice})"
    if version > NEWEST:
        return f"the locks have wheels up to Python {NEWEST[0]}.{NEWEST[1]}: {found} ({advice})"
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            return (
                f"{sys.executable} cannot create environments: its module {module} is missing "
                f"(on Debian and Ubuntu run apt install python{version[0]}.{version[1]}-venv, or set PYTHON)"
            )
    return None
