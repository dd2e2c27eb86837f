"""Progress in a Python session: which view opens, and what a notebook shows."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from finch_hub.display import progress, sessions
from finch_hub.progress import is_notebook
from finch_hub.specs.events import NewEvent


class Cell:
    """The output of a cell, as IPython's `display` fills it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[str] = []
        ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        kernel = types.SimpleNamespace(kernel=object())
        vars(ipython).update(get_ipython=lambda: kernel, display=display)
        vars(display).update(HTML=str, display=self.display)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, drawn: str, *, display_id: bool) -> Any:
        assert display_id
        self.shown.append(drawn)
        return types.SimpleNamespace(update=self.shown.append)


@pytest.mark.parametrize(("shows", "kind"), [(None, progress.View), (False, progress.View), (True, progress.PlainView)])
def test_a_script_shows_lines_only_if_it_is_asked_to(shows: bool | None, kind: type) -> None:
    assert type(sessions.open_client_view(shows)) is kind


@pytest.mark.parametrize(("shows", "kind"), [(None, progress.LiveView), (False, progress.View)])
def test_a_terminal_has_a_bar(shows: bool | None, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert type(sessions.open_client_view(shows)) is kind


def test_a_notebook_shows_a_bar_a_curve_and_messages_in_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(monkeypatch)
    monkeypatch.setattr(sessions, "NOTEBOOK_SECONDS", 0.0)
    with sessions.open_client_view(None) as view:
        view.show_wait("1 job ahead")
        assert '<div class="tex2jax_ignore mathjax_ignore">not started yet: 1 job ahead' in cell.shown[-1]
        view.show(NewEvent.phase("training"))
        for step in (1, 2):
            figures = {"step": step, "steps": 4, "loss": 2.0 / step, "learning_rate": 1e-3, "seconds_left": 3}
            view.show(NewEvent(type="progress", data=figures))
        assert "training  2/4" in cell.shown[-1]
        assert 'width="240"' in cell.shown[-1]
        assert "<title>Loss by step" in cell.shown[-1]
        view.show(NewEvent(type="message", message="<script>alert(1)</script>\x1b[31m"))
    assert "&lt;script&gt;alert(1)" in cell.shown[-1]
    assert "<script" not in cell.shown[-1]
    assert "\x1b" not in cell.shown[-1]


def test_a_notebook_keeps_the_last_messages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(monkeypatch)
    with sessions.NotebookView() as view:
        for number in range(50):
            view.write(f"message {number}.")
    assert cell.shown[-1].count("message") == sessions.NOTEBOOK_LINES
    assert "message 49." in cell.shown[-1]


def test_ipython_in_a_terminal_is_not_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = types.ModuleType("IPython")
    vars(ipython).update(get_ipython=lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert not is_notebook()
