"""Points in the code where fault tests break a real process.

``FINCH_FAULT=point:action[:file]`` selects a point. The actions: ``kill`` and ``stop`` send SIGKILL or SIGSTOP to the
process itself, ``hold`` waits until the file is gone, ``full`` raises the OSError of a full disk. With a file the fault
happens once, in the process that creates the file first.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

_FAULT = os.environ.get("FINCH_FAULT", "")


def reach(point: str) -> None:
    """Break this process if ``FINCH_FAULT`` names the point."""
    if not _FAULT:
        return
    name, action, *once = _FAULT.split(":")
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
        # Sent to this thread, which stops at once with all others. A signal to another thread would let it go on a bit.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    elif action == "hold":
        while Path(once[0]).exists():
            time.sleep(0.02)
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
