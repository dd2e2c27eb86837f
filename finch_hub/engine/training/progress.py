"""What a training tells of itself while it runs: events, and not too many of them."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

from finch_hub.specs.events import NewEvent, Report
from finch_hub.specs.reports import TokenMetrics
from finch_hub.specs.value import Value

_INTERVAL = 0.25  # seconds: four a second is what an eye can follow, and costs a database little


class Progress:
    """Sends events; progress at most about four times a second."""

    def __init__(self, report: Report, device: torch.device) -> None:
        self._report = report
        self._device = device
        self._process = psutil.Process()
        self._last = 0.0

    @property
    def due(self) -> bool:
        """Tell whether enough time has passed for another progress event."""
        return time.monotonic() - self._last >= _INTERVAL

    def progress(self, **data: Any) -> None:
        """Report where training is; memory is added."""
        self._last = time.monotonic()
        self._report(NewEvent(type="progress", data={**data, "memory_bytes": self._memory()}))

    def phase(self, name: str) -> None:
        """Report that another phase began."""
        self._report(NewEvent.phase(name))

    def metrics(self, step: int, metrics: TokenMetrics) -> None:
        """Report a held-out evaluation."""
        data = {"step": step, "valid_loss": metrics.loss, "valid_accuracy": metrics.accuracy}
        text = f"held-out loss {metrics.loss:.4f} after step {step}"
        self._report(NewEvent(type="metrics", message=text, data=data))

    def report(self, name: str, value: Value) -> None:
        """Report a finished report."""
        self._report(NewEvent(type="report", data={"name": name, "report": value.model_dump(mode="json")}))

    def message(self, text: str) -> None:
        """Report something in words."""
        self._report(NewEvent(type="message", message=text))

    def warn(self, message: str) -> None:
        """Report something that people should know."""
        self._report(NewEvent(type="message", level="warn", message=message))

    def _memory(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return int(self._process.memory_info().rss)
