"""Values formatted for people, and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.display import tables


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3723, "1:02:03 h")])
def test_format_duration_reads_as_a_clock(seconds: float, text: str) -> None:
    assert tables.format_duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB")])
def test_format_bytes_uses_the_unit_that_fits(count: int, text: str) -> None:
    assert tables.format_bytes(count) == text


def test_to_json_converts_every_value() -> None:
    now = datetime.now(UTC)
    value = {"a": (1, Path("/x")), "b": {now}, "c": errors.Problem(what="w")}
    assert tables.to_json(value) == {
        "a": [1, "/x"],
        "b": [now.isoformat().replace("+00:00", "Z")],
        "c": {"what": "w", "where": "", "fix": ""},
    }
