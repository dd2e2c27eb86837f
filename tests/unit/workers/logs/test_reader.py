"""Lines that are read back; tests/unit/workers/logs/test_formatter.py has those of any record."""

from __future__ import annotations

import pytest

from finch_hub.workers.logs.reader import read_line


@pytest.mark.parametrize(
    "line",
    ["Traceback (most recent call last):", "ImportError: a=b", 'a="b', 'a="b"c', "a=b  c=d", "a==b", "{", "[1]", "{1}"],
)
def test_other_lines_are_not_read(line: str) -> None:
    assert read_line(line) is None


def test_fields_of_both_formats_are_read() -> None:
    assert read_line(r'a=1 b="x \"y\"\n" c-d.e=true') == {"a": "1", "b": 'x "y"\n', "c-d.e": "true"}
    assert read_line('{"a": 1, "b": "x"}') == {"a": 1, "b": "x"}
