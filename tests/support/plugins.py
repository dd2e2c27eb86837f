"""Installed plugins, laid out as pip does, and a command that sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STRATEGY = """
from finch_hub.plugins.descriptors import Strategy
from finch_hub.plugins.hooks import hookimpl

@hookimpl
def finch_strategies():
    return [Strategy(name={name!r}, summary="x", target="a:b")]
"""


def install(folder: Path, name: str, code: str, *, point: str | None = None) -> Path:
    """Lay out a distribution with one entry point and one module, and return the module's file."""
    module = f"finch_test_{name.replace('-', '_')}"
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(point or f"[finch_hub]\nplugin = {module}\n")
    file = folder / f"{module}.py"
    file.write_text(code)
    return file


def run_command(folder: Path, home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `finch-hub` in a process of its own, with the plugins of a folder."""
    return subprocess.run(
        [sys.executable, "-m", "finch_hub", *words],
        env={**os.environ, "PYTHONPATH": str(folder), "FINCH_HOME": str(home), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
