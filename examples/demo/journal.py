"""File of what the demo has decided and measured, so that the next run continues with it.

Jobs and adapters are not in it: the hub has them. A journal that is missing costs only that sizes are chosen anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.demo.plan import Sizes, Speed
from finch_hub.formats.atomic_writes import atomic_file


class Journal:
    """Sizes, durations and results of the demo's steps. Each change is in the file before the next line runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._steps: dict[str, dict[str, Any]] = {}
        self.speed: Speed | None = None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            self._steps = content["steps"]
            self.speed = Speed(**content["speed"]) if content["speed"] else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self._steps = {}

    def sizes(self, step: str) -> Sizes | None:
        """Return the sizes that were decided for a step, None if there are none."""
        found = self._steps.get(step, {}).get("sizes")
        try:
            return Sizes(**found) if found else None
        except TypeError:  # another version of the demo wrote them
            return None

    def decide(self, step: str, sizes: Sizes) -> None:
        """Record the sizes of a step before it starts."""
        self._steps.setdefault(step, {})["sizes"] = asdict(sizes)
        self._write()

    def seconds(self, step: str) -> float | None:
        """Return the duration of a step that has ended, None if it is not known."""
        return self._steps.get(step, {}).get("seconds")

    def end(self, step: str, seconds: float, speed: Speed | None = None) -> None:
        """Record that a step has ended, and the speed since then."""
        self._steps.setdefault(step, {})["seconds"] = seconds
        self.speed = speed or self.speed
        self._write()

    @property
    def spent(self) -> float:
        """Seconds of all steps that have ended."""
        return sum(step.get("seconds", 0.0) for step in self._steps.values())

    def once(self, step: str, inputs: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return the result of a step that is not a job. It is computed if no run had the same inputs."""
        entry = self._steps.setdefault(step, {})
        if entry.get("inputs") != inputs:
            result = compute()
            entry |= {"inputs": dict(inputs), "result": result}
            self._write()
        return entry["result"]

    def _write(self) -> None:
        content = {"steps": self._steps, "speed": asdict(self.speed) if self.speed else None}
        with atomic_file(self._file) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
