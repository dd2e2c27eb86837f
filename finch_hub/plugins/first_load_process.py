"""The process in which a plugin's code is loaded for the first time; see `finch_hub.plugins.first_load`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading

from finch_hub.formats.installed_metadata import read_leniently
from finch_hub.plugins import foreign_code
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.installed import GROUP


def main() -> None:
    """Load a plugin and call its hooks, and say what another process that did so could not survive.

    The arguments are the descriptor of a pipe, and number, names and values of the entry points.
    """
    read_leniently()
    pipe, count, process = int(sys.argv[1]), int(sys.argv[2]), os.getpid()
    points = sys.argv[3 : 3 + 2 * count]
    said, limits = "finished", foreign_code.read_limits()
    for name, value in zip(points[::2], points[1::2], strict=True):
        try:
            with foreign_code.keep_process():
                plugin = importlib.metadata.EntryPoint(name, value, GROUP).load()
            catalog = load_catalog(entry_points=False, extra=[plugin])
            _ = catalog.problems
        except KeyboardInterrupt as error:  # nobody has pressed a key here, and elsewhere it would end the command
            said = f"it raises {foreign_code.describe(error)}"
        except BaseException as error:
            if not foreign_code.is_foreign(error):
                said = f"it raises {foreign_code.describe(error)}"
            # Other errors are caught by every process that loads it, and described there.
    lasting = [t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if lasting:
        said = f"it starts the thread {lasting[0]}, which keeps commands from ending (make it a daemon)"
    if lowered := foreign_code.find_lowered(limits):
        said = f"it lowers the limit {lowered[0]} of the process that loads it"
    if os.getpid() != process:
        os._exit(0)  # a copy that the plugin forked
    os.write(pipe, f"{said}\n".encode(errors="replace"))
    # The process ends as a command does, with all that the plugin has registered for the end.
