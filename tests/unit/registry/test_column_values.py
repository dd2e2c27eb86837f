from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from finch_hub.registry.column_values import fits, repair
from finch_hub.registry.tables import Table
from finch_hub.registry.types import UNKNOWN_TIME

JOBS, LINEAGE = Table.metadata.tables["jobs"].c, Table.metadata.tables["lineage"].c


@pytest.mark.parametrize(
    ("column", "valid", "invalid"),
    [
        (JOBS.priority, [0, -(2**31) + 1, 2**31 - 1], [2**31, "1", 1.0, b"1"]),
        (JOBS.memory_bytes, [2**63 - 1], [2**63, ""]),
        (JOBS.time_limit, [1, 0.5], [float("inf"), float("nan"), "1"]),
        (JOBS.kind, ["train", "", "\u00e9" * 16], ["k" * 17, "a\0", "\ud800", b"a", 1]),
        (JOBS.reason, ["x" * 10**6], ["\0", b""]),
        (JOBS.state, ["queued"], [1]),
        (JOBS.created_at, ["2026-01-01 00:00:00.000"], ["2026-01-01", "2026-01-01 00:00:00.00Z", "x" * 23, 5]),
        (JOBS.spec, ["{}", "[1]", '"a"', "null", "1e999"], ["", "{", "[" * 10**5, "[" * 300 + "]" * 300, 1]),
    ],
)
def test_values_fit_that_both_databases_take(column: sa.Column[Any], valid: list[Any], invalid: list[Any]) -> None:
    assert [value for value in valid if not fits(column.type, value)] == []
    assert [value for value in invalid if fits(column.type, value)] == []


@pytest.mark.parametrize(
    ("column", "value", "repaired"),
    [
        (JOBS.priority, "high", 0),
        (JOBS.time_limit, "long", None),
        (LINEAGE.weight, float("inf"), 0),
        (JOBS.kind, "k" * 20, "k" * 16),
        (JOBS.reason, "a\0", None),
        (JOBS.created_at, "once", UNKNOWN_TIME),
        (JOBS.started_at, "once", None),
        (JOBS.spec, "{", "{"),
    ],
)
def test_damaged_value_becomes_one_that_fits(column: sa.Column[Any], value: Any, repaired: Any) -> None:
    assert repair(column, value) == repaired


def test_intact_values_are_left_alone() -> None:
    now = datetime.now(UTC)
    for column, value in ((JOBS.priority, 3), (JOBS.started_at, None), (JOBS.created_at, now), (JOBS.kind, "train")):
        assert repair(column, value) is value
