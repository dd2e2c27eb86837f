"""First load of a plugin's code, in a process of its own, so that code that ends or hangs a process is found there.

A plugin can end its process at the import, crash it, or never return, and no handler in the same process helps. So its
code is loaded once in another process, before it is loaded here. The verdict is kept until the code changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from finch_hub import errors
from finch_hub.formats.atomic_writes import atomic_file
from finch_hub.plugins.installed import InstalledPlugin, hash_environment
from finch_hub.texts.visible_text import to_line

LIMIT_SECONDS = 60.0
END_SECONDS = 10.0
"""Time that a process with a plugin may take to end."""
_NOTICE_SECONDS = 3.0
_MAX_TROUBLE = 1000  # bytes
_FINISHED = b"finished"


class PluginWarning(errors.FinchWarning):
    """A plugin delays commands, or is missed."""


class SlowPluginWarning(PluginWarning):
    """A plugin takes long to load."""


def find_trouble(plugin: InstalledPlugin, *, cache: Path, retry: bool = False) -> str | None:
    """Return why the plugin's code must not be loaded into a process, None if nothing speaks against it.

    One process tries all its entry points.

    Args:
        cache: folder of the verdicts.
        retry: whether a plugin that failed with the same code gets another chance.
    """
    owner = hashlib.sha256(plugin.name.encode()).hexdigest()[:12]
    code = hashlib.sha256(f"{hash_environment()} {plugin.hash_code()}".encode()).hexdigest()[:40]
    file = cache / "plugins" / f"{owner}-{code}"
    with contextlib.suppress(OSError):
        trouble = file.read_text(encoding="utf-8", errors="replace")
        if not (trouble and retry):
            return trouble or None
    trouble = _load_elsewhere(plugin) or ""
    with contextlib.suppress(OSError, errors.FinchError):  # without the verdict, the next process loads it again
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in file.parent.glob(f"{owner}-*"):
            old.unlink(missing_ok=True)
        with atomic_file(file) as unfinished:
            unfinished.write_text(trouble, encoding="utf-8")
    return trouble or None


def _load_elsewhere(plugin: InstalledPlugin) -> str | None:
    read, write = os.pipe()
    points = [text for point in plugin.points for text in (point.name, point.value)]
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(write), str(len(plugin.points)), *points, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(write,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(read)
        return f"no process could be started to load it: {error.strerror}"
    finally:
        os.close(write)
    try:
        said = _listen(read, plugin)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if said is not None:
                process.wait(END_SECONDS)
        status = process.poll()
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.wait()
    if said is None:
        return f"it does not return within {LIMIT_SECONDS:g} s"
    if said and said != _FINISHED:
        return to_line(said.decode(errors="replace"))
    if said and status is None:
        return "it keeps the process that loads it from ending"
    if said and status == 0:
        return None
    return f"it ends the process that loads it ({_describe_status(status)})"


def _listen(read: int, plugin: InstalledPlugin) -> bytes | None:
    """Return what the process says, nothing if it ended without a word, None if it takes too long."""
    said, began, is_noticed = b"", time.monotonic(), False
    with selectors.DefaultSelector() as selector:
        selector.register(read, selectors.EVENT_READ)
        while (elapsed := time.monotonic() - began) < LIMIT_SECONDS:
            until = LIMIT_SECONDS if is_noticed else min(_NOTICE_SECONDS, LIMIT_SECONDS)
            if selector.select(max(0.0, until - elapsed)):
                data = os.read(read, _MAX_TROUBLE)
                said += data
                if not data or b"\n" in said or len(said) >= _MAX_TROUBLE:
                    return said.partition(b"\n")[0][:_MAX_TROUBLE]
            elif not is_noticed:
                is_noticed = True
                text = f"waiting for plugin {plugin.name}, whose code is new and is loaded for the first time"
                warnings.warn(f"{text} ({_leave_out(plugin.name)})", SlowPluginWarning, stacklevel=2)
    return None


def _leave_out(name: str) -> str:
    return f"FINCH_DISABLED_PLUGINS={name} leaves it out"


def _describe_status(status: int | None) -> str:
    if status is None:
        return "it goes on in silence"
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


_CODE = (
    "import sys; sys.path[:] = sys.argv[3 + 2 * int(sys.argv[2]) :]; "
    "from finch_hub.plugins.first_load_process import main; main()"
)
