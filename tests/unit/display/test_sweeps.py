"""Drawings of sweeps: texts of strangers forge no line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from finch_hub.display import progress, sessions, tables
from finch_hub.display.sweeps import PointsView
from finch_hub.specs.events import NewEvent

FORGED = "  2 of 3: rank=8: succeeded birds/9"


@pytest.mark.parametrize("make_view", [progress.PlainView, progress.LiveView, sessions.NotebookView])
def test_texts_of_a_training_forge_no_line(
    make_view: Callable[[], progress.View], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.console.cache_clear()
    shown: list[str] = []
    monkeypatch.setattr(sessions.Output, "show", lambda self, drawn: shown.append(drawn))
    with make_view() as view:
        points = PointsView(view)
        points.show(NewEvent(type="message", level="warn", message=f"one\n{FORGED}"))
        points.write(f"  1 of 3: rank=4: failed two\n{FORGED}")
    text = "\n".join(shown[-1:]) + capsys.readouterr().err
    assert text.count(f"\n    {FORGED}") == 2
    assert f"\n{FORGED}" not in text
