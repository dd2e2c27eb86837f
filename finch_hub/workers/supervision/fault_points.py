"""Named points at which the fault tests break a real process; without ``FINCH_FAULT`` they do nothing.

``FINCH_FAULT=point:action[:file]``, where the action is ``kill`` (SIGKILL to itself), ``stop`` (SIGSTOP to itself),
``hold`` (go on when the file is gone) or ``full`` (an OSError as of a full disk). With a file the fault happens once:
whoever creates the file first.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

_WANTED = os.environ.get("FINCH_FAULT", "")


def at(point: str) -> None:
    """Break here if ``FINCH_FAULT`` names this point."""
    if not _WANTED:
        return
    name, action, *once = _WANTED.split(":")
    if name != point:
        return
    if once:
        try:
            os.close(os.open(once[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        # To this thread, which then stops here and takes the others along; it might go on a bit if it were another's.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    elif action == "hold":
        while Path(once[0]).exists():
            time.sleep(0.02)
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
