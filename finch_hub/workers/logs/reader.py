"""Reader of lines that :class:`finch_hub.workers.logs.formatter.FieldFormatter` wrote."""

from __future__ import annotations

import json
import re
from typing import Any

_FIELD = re.compile(r'(?P<key>[\w.-]+)=(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<plain>[^\s"=\\]+))(?: |$)', re.ASCII)


def read_line(line: str) -> dict[str, Any] | None:
    """Return the fields of a line in either format, None if it is no line of a log. In logfmt all values are texts."""
    if line.startswith("{"):
        try:
            fields = json.loads(line)
        except ValueError:
            return None
        return fields if isinstance(fields, dict) else None
    found, end = {}, 0
    while end < len(line):
        match = _FIELD.match(line, end)
        if match is None:
            return None
        found[match["key"]] = json.loads(match["quoted"]) if match["quoted"] else match["plain"]
        end = match.end()
    return found
