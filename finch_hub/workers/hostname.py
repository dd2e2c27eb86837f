"""Name of this host, as workers, the database and the broker use it."""

from __future__ import annotations

import re
import socket

_LONGEST = 64  # characters; the name of a worker adds its process id and has 96 at most


def find_hostname() -> str:
    """Return this host's name. Characters that are not allowed in the name of a worker become dashes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname())
    return name[:_LONGEST].strip("-._") or "host"
