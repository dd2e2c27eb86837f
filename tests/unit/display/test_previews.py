"""Rows as a model sees them, drawn with colors and without."""

from __future__ import annotations

import io

import pytest

from finch_hub.display.previews import draw_rows
from finch_hub.display.tables import group
from finch_hub.display.visible_console import VisibleConsole
from finch_hub.specs.previews import PreviewPart, PreviewRow

ROW = PreviewRow(
    number=1,
    parts=(
        PreviewPart(kind="prompt", text="<|user|>\nWhat?\x1b[31m"),
        PreviewPart(kind="dropped", text=" Old text."),
        PreviewPart(kind="learned", text="A bird."),
    ),
    tokens=9,
    learned_tokens=3,
    dropped_tokens=2,
    lost=("assistant: a thought",),
)


def draw(*rows: PreviewRow) -> str:
    stream = io.StringIO()
    console = VisibleConsole(stderr=False, width=80)
    console.file = stream
    console.print(group(draw_rows(rows)))
    return stream.getvalue()


def test_marks_stand_for_colors_where_there_are_none() -> None:
    text = draw(ROW)
    assert "row 1: 9 tokens, 3 learned, 2 dropped to fit the maximum length" in text
    assert "  What?\\x1b[31m~~ Old text.~~[[A bird.]]" in text
    assert "the chat template leaves out ~~assistant: a thought~~" in text
    assert "\x1b" not in text


def test_row_that_cannot_be_used_is_named() -> None:
    text = draw(PreviewRow(number=3, problem="has no token to train on"))
    assert "row 3 cannot be used: has no token to train on" in text


def test_terminal_gets_colors_and_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = draw(ROW)
    assert "\x1b[1;4;32mA bird." in text
    assert "\x1b[9;31m Old text." in text
    assert "[[" not in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[[A bird.]]" in draw(ROW)
