"""A process that kills a worker's children after the worker exits or crashes."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import threading

from finch_hub.workers.supervision import descendants

# A shell, since it is small. Its own session keeps it from signals to the worker. It reads process groups from a pipe.
# The kernel closes the pipe when the worker ends, and then the shell kills the groups that are left. A service manager
# signals this process too, and the worker is still there then. Descendants that left their group are found by a
# variable of their environment, where there is a /proc. Some may start others meanwhile, so it looks several times.
_SCRIPT = f"""
trap '' TERM INT HUP
groups=
while read -r action group; do
  kept=
  for member in $groups; do [ "$member" = "$group" ] || kept="$kept $member"; done
  groups=$kept
  [ "$action" = add ] && groups="$groups $group"
done
for member in $groups; do kill -s KILL -- "-$member" 2>/dev/null; done
for round in 1 2 3 4 5; do
  for file in $(grep -lsF "{descendants.MARK}=$1." /proc/[0-9]*/environ); do
    process=${{file#/proc/}}
    kill -s KILL "${{process%/environ}}" 2>/dev/null
  done
done
"""


class OrphanCleanup:
    """Process groups of a worker's children and their descendants, to be killed when the worker ends.

    A child normally ends with its supervisor and takes its group along. A suspended child cannot. A child that died may
    leave descendants, and some may have left its group.

    Attributes:
        mark: what the marks of all children of the worker begin with (see `descendants.MARK`).
    """

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        read, self._groups_fd = os.pipe()
        try:
            # The outer shell ends at once, so init adopts the inner one and no zombie is left. By default, the input of
            # the inner one would be /dev/null.
            subprocess.run(
                ["/bin/sh", "-c", f"exec 3<&0; ( {_SCRIPT} ) <&3 3<&- &", "sh", self.mark],
                stdin=read,
                start_new_session=True,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(read)
        self._lock = threading.Lock()

    def add_group(self, group: int) -> None:
        """Kill this process group when the worker ends."""
        self._send(f"add {group}\n")

    def remove_group(self, group: int) -> None:
        """Do not kill this process group: it has ended, and its id may be used again."""
        self._send(f"remove {group}\n")

    def close(self) -> None:
        """Kill the groups that are left, and end the process."""
        with self._lock, contextlib.suppress(OSError):
            os.close(self._groups_fd)

    def _send(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError):  # if the process was killed, children still end with the worker
            os.write(self._groups_fd, line.encode())
