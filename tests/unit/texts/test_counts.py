"""Numbers of things in messages."""

from __future__ import annotations

from finch_hub.texts.counts import format_count


def test_format_count_uses_the_plural_unless_one() -> None:
    counts = [format_count(number, "example") for number in (0, 1, 2, 1234)]
    assert counts == ["0 examples", "1 example", "2 examples", "1,234 examples"]
