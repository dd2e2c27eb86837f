"""The terminal, with visible texts only, in tables, trees, lines and bars."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.cells import cell_len
from rich.tree import Tree

from finch_hub.display import progress, tables
from finch_hub.display.visible_console import VisibleConsole
from finch_hub.plugins import command_output
from finch_hub.specs.events import Event
from finch_hub.texts.visible_text import to_block

HOSTILE = "a\x1b]0;title\x07b\x1b[2J\x9b2J\u202e\u2028\ud800\nForged line"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_event(kind: Any, **data: Any) -> Event:
    return Event(job_id="j", seq=1, at=datetime.now(UTC), type=kind, level="error", message=HOSTILE, data=data)


def draw(*drawn: object, width: int = 160) -> str:
    console = VisibleConsole(stderr=False, width=width)
    console.file = io.StringIO()
    for part in drawn:
        console.print(part)
    return console.file.getvalue()


def test_texts_are_drawn_visible_wherever_they_stand() -> None:
    tree = Tree(HOSTILE)
    tree.add(HOSTILE)
    table = tables.draw_table((HOSTILE, "b"), [(HOSTILE, [HOSTILE]), (tables.Lines([HOSTILE]), None)], title=HOSTILE)
    shown = draw(HOSTILE, tree, table, tables.draw_fields({HOSTILE: HOSTILE}), tables.group([HOSTILE]))
    assert to_block(shown) == shown
    shown.encode()
    assert "Forged line" in shown


def test_no_cell_column_title_or_line_of_a_group_forges_another_line() -> None:
    table = tables.draw_table((HOSTILE, "b"), [(HOSTILE, [HOSTILE]), (tables.Lines([HOSTILE]), None)], title=HOSTILE)
    shown = draw(table, tables.draw_fields({HOSTILE: HOSTILE}), tables.group([HOSTILE]), width=400)
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("Forged")]


def test_text_is_no_markup_and_has_no_emoji_codes() -> None:
    assert draw("[red]a[/] [/x] :smile: [link=https://x.org]b[/link]").strip() == (
        "[red]a[/] [/x] :smile: [link=https://x.org]b[/link]"
    )


@pytest.mark.parametrize("names", [["鳥", "bird"], ["e\u0301", "e"], [HOSTILE, "🐦"], ["पक्षी", "پرسش\u200cها"]])
def test_columns_stay_aligned(names: Sequence[str]) -> None:
    lines = draw(tables.draw_table(("name", "value"), [(name, "|") for name in names])).splitlines()
    ends = {cell_len(line[: line.index("|")]) for line in lines if "|" in line}
    assert len(ends) == 1


def test_bar_shows_its_title_and_messages_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    tables.console.cache_clear()
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.open_view() as view:
        assert isinstance(view, progress.LiveView)
        view.show(make_event("phase", name=f"[/x] {HOSTILE}"))
        view.show(make_event("progress", unit=HOSTILE, step=1, steps=2))
        view._bar.refresh()
        view.show(make_event("state", state=HOSTILE))
        view.show(make_event("message"))
        view.show_wait(HOSTILE)
    tables.console.cache_clear()
    shown = terminal.getvalue()
    for raw in ("\x1b]0;", "\x1b[2J", "\x07", "\x9b", "\u202e", "\u2028", "\ud800", "\nForged"):
        assert raw not in shown
    assert r"[/x] a\x1b]0;title\x07b" in shown


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_reader_of_messages_that_leaves_ends_no_command() -> None:
    for is_error in (True, False):
        console = VisibleConsole(stderr=is_error, width=80)
        console.file = Closed()
        with contextlib.nullcontext() if is_error else pytest.raises(command_output.ClosedOutput):
            console.print("a message")


@pytest.mark.parametrize("kind", ["message", "phase", "state", "progress", "metrics", "report"])
def test_event_of_any_type_forges_no_line(kind: str) -> None:
    data = {"name": HOSTILE, "state": HOSTILE, "unit": HOSTILE, "step": 1, HOSTILE: HOSTILE}
    drawn = progress.draw_event(make_event(kind, **data))
    assert isinstance(drawn, str)
    assert to_block(drawn) == drawn
    assert all(line.startswith("    ") for line in drawn.splitlines()[1:])
