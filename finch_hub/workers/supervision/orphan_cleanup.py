"""What kills the processes that are left when a worker is gone, in whatever way it went."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading

# A shell, since it is small, and of another session than ours, so that nothing that is sent to us reaches it. It reads
# what to watch, and acts when the other end of the pipe is closed, which the kernel sees to.
_SCRIPT = """
groups=
while read -r what group; do
  kept=
  for each in $groups; do [ "$each" = "$group" ] || kept="$kept $each"; done
  groups=$kept
  [ "$what" = watch ] && groups="$groups $group"
done
for each in $groups; do kill -s KILL -- "-$each" 2>/dev/null; done
"""


class Guard:
    """Knows the process groups of a worker's children, and kills those that are left when the worker has ended.

    A child ends by itself when its supervisor does, with all of its group; but one that stands still hears of nothing,
    and one that has just died has perhaps left descendants that nobody else knows of.
    """

    def __init__(self) -> None:
        read, self._told = os.pipe()
        try:
            # In the background of a shell that ends: the guard is nobody's child, and leaves nobody a zombie.
            subprocess.run(
                ["/bin/sh", "-c", f"exec 3<&0; ( {_SCRIPT} ) <&3 3<&- &"],  # by itself its input would be nothing
                stdin=read,
                start_new_session=True,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(read)
        self._telling = threading.Lock()

    def watch(self, group: int) -> None:
        """Kill this process group, unless it is forgotten before we end."""
        self._tell(f"watch {group}\n")

    def forget(self, group: int) -> None:
        """Leave it alone: it has ended, and its number may be another's by now."""
        self._tell(f"forget {group}\n")

    def close(self) -> None:
        """Let it kill what is left, and end."""
        with self._telling, contextlib.suppress(OSError):
            os.close(self._told)

    def _tell(self, line: str) -> None:
        with self._telling, contextlib.suppress(OSError):  # where somebody killed it, children have themselves
            os.write(self._told, line.encode())
