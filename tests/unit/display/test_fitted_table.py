"""Rows that fit the width of the terminal, with no word split."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from finch_hub.display import tables

WORKER: tuple[object, ...] = (
    "host-1234",
    "active",
    ["gpu 0 (120.0 GB of 143.0 GB free)"],
    "1 of 2",
    ["abcdefgh23456723"],
    [],
    "0.1.0",
)
COLUMNS = ("worker", "state", "devices", "busy", "jobs", "labels", "version")


def draw(width: int, columns: tuple[str, ...], *rows: tuple[object, ...], title: str | None = None) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(tables.draw_table(columns, rows, title=title))
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]


def test_wide_terminal_has_a_table() -> None:
    header, rule, row = draw(200, COLUMNS, WORKER)
    assert header.split() == list(COLUMNS)
    assert set(rule.strip()) == {"─"}
    assert row.split()[:2] == ["host-1234", "active"]


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_terminal_has_few_lines_for_a_row_and_splits_no_word(width: int) -> None:
    lines = draw(width, COLUMNS, WORKER)
    assert len(lines) <= 4
    assert all(len(line) <= width for line in lines)
    for word in ("host-1234", "active", "(120.0", "abcdefgh23456723", "0.1.0"):
        assert word in " ".join(lines).split()


def test_narrow_terminal_names_the_cells_that_are_not_empty() -> None:
    assert draw(60, COLUMNS, WORKER) == [
        "host-1234",
        "  state active · devices gpu 0 (120.0 GB of 143.0 GB free)",
        "  busy 1 of 2 · jobs abcdefgh23456723 · version 0.1.0",
    ]


def test_word_that_is_wider_than_the_terminal_loses_nothing() -> None:
    digest = "0123456789abcdef" * 4
    lines = draw(40, ("version", "identity"), ("birds/1", digest))
    assert lines[:2] == ["birds/1", "  identity"]
    assert "".join(line.strip() for line in lines[2:]) == digest


def test_text_of_many_lines_goes_below_the_row() -> None:
    """A table whose rows have more than two lines is hard to read."""
    advice = "word " * 60
    first, *others = draw(80, ("check", "advice"), ("database", advice), title="Findings")
    assert (first, others[0]) == ("Findings", "database")
    assert all(len(line) <= 80 for line in others)


def test_row_may_wrap_once_in_a_table() -> None:
    lines = draw(60, ("job", "target"), ("abcdefgh23456723", "birds on smollm2-135m, from 500 examples of yours"))
    assert lines[0].split() == ["job", "target"]
    assert len(lines) <= 4
