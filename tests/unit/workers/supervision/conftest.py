"""A clock that tests move."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from finch_hub.workers.supervision import event_buffer


class Clock:
    """Monotonic clock that goes on when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(event_buffer, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
