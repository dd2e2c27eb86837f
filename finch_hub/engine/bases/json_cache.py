"""Cache of small values in a JSON file that several processes share."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from finch_hub.formats.atomic_writes import atomic_file


class JsonCache:
    """One JSON object in a file. Nothing is stored without a folder. A missing or damaged file counts as empty."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._file = folder / name if folder is not None else None

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""
        return self._read().get(key)

    def put(self, key: str, value: Any) -> None:
        """Store the value of a key beside the values that other processes have stored, if the disk has space for it."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = json.dumps({**self._read(), key: value})
            with atomic_file(self._file, is_private=True) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self._file.read_bytes()) if self._file is not None else {}
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}
