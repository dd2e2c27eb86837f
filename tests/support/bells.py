"""A plugin with a listener that keeps a journal, and one that does what a file says."""

from __future__ import annotations

from pathlib import Path

_HOOKS = """
from finch_hub.plugins.descriptors import Listener
from finch_hub.plugins.hooks import hookimpl

@hookimpl
def finch_listeners():
    return [Listener(name=name, summary="A test.", target=f"finch_bells:{name}") for name in ("journal", "trouble")]
"""
_TARGETS = """
import os, pathlib, time

home = pathlib.Path(os.environ["FINCH_HOME"])

def journal(job):
    with (home / "journal").open("a") as file:
        file.write(f"{job.id} {job.state}\\n")

def trouble(job):
    what = (home / "trouble").read_text()
    with (home / "tried").open("a") as file:
        file.write(f"{job.id} {os.getpid()}\\n")
    if what == "raise":
        raise ValueError("no bell at redis://finch:seeds-and-nuts@perch")
    if what == "leave":
        os._exit(3)
    if what == "hang":
        time.sleep(600)
"""


def install(site: Path) -> Path:
    """Write the plugin and its entry point into a folder, and return the folder."""
    about = site / "finch_bells-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: finch-bells\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[finch_hub]\nbells = finch_bell_hooks\n")
    (site / "finch_bell_hooks.py").write_text(_HOOKS)
    (site / "finch_bells.py").write_text(_TARGETS)
    return site


def read_lines(file: Path) -> list[str]:
    """Return the lines that a listener has written."""
    return file.read_text().splitlines() if file.exists() else []
