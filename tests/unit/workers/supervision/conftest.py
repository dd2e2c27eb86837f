"""A clock that tests move, and a redactor with a short secret."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from finch_hub.storage.redaction import Redactor
from finch_hub.workers.supervision import event_buffer


class WordRedactor(Redactor):
    """Redactor to which one word is a secret."""

    def clean(self, text: str) -> str:
        return super().clean(text.replace("secret", "***"))


class Clock:
    """Monotonic clock that goes on when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(event_buffer, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
