from __future__ import annotations

import pytest

from finch_hub.workers.logs import context


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of the process that other tests have set are not those of these tests."""
    monkeypatch.setattr(context, "_of_process", {})
