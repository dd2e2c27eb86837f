"""Events that a training reports while it runs."""

from __future__ import annotations

import time

import psutil
import torch

from finch_hub.progress import Advance
from finch_hub.specs.events import NewEvent, Report
from finch_hub.specs.reports import TokenMetrics
from finch_hub.specs.value import Value

_INTERVAL = 0.25  # seconds: four progress events a second are enough for users, and cheap for the database


class ProgressReporter:
    """Reporter of a training's events; progress is reported about four times a second."""

    def __init__(self, report: Report, device: torch.device) -> None:
        self._report = report
        self._device = device
        self._process = psutil.Process()
        self._last = 0.0

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed for another progress event."""
        return time.monotonic() - self._last >= _INTERVAL

    def report_progress(self, **figures: float | None) -> None:
        """Report figures of the latest step, and the memory in use."""
        self._last = time.monotonic()
        self._report(NewEvent(type="progress", data={**figures, "memory_bytes": self._memory_bytes()}))

    def report_advance(self, advance: Advance) -> None:
        """Report how far some work beside the steps is."""
        self._report(NewEvent.advance(advance))

    def report_phase(self, name: str) -> None:
        """Report that a phase began."""
        self._report(NewEvent.phase(name))

    def report_metrics(self, step: int, metrics: TokenMetrics) -> None:
        """Report a held-out evaluation."""
        data = {"step": step, "valid_loss": metrics.loss, "valid_accuracy": metrics.accuracy}
        text = f"held-out loss {metrics.loss:.4f} after step {step}"
        self._report(NewEvent(type="metrics", message=text, data=data))

    def report_value(self, name: str, value: Value) -> None:
        """Report a finished report, such as that of the data."""
        self._report(NewEvent(type="report", data={"name": name, "report": value.model_dump(mode="json")}))

    def report_message(self, text: str) -> None:
        """Report a message for users."""
        self._report(NewEvent(type="message", message=text))

    def warn(self, text: str) -> None:
        """Report a warning for users."""
        self._report(NewEvent(type="message", level="warn", message=text))

    def _memory_bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return int(self._process.memory_info().rss)
