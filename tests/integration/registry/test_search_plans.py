"""Indexes that the databases use for searches and lists of adapters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from support import registry

from finch_hub.registry import adapter_versions, adapters, search_index, tables, version_search
from finch_hub.registry.database import Database

from .test_history import plans_of, vacuum

VERSIONS = 3000
QUERIES = [
    "",
    "state:quarantined",
    "kind:train owner:ana",
    "base:tiny",
    "name:a1",
    "name:a1* -state:ready",
    "tag:owner=ana",
    "tag:gold",
    "parent:a1/1",
    "data:seeds",
    "data:sown",
    "created>2026-01-02",
    "metric.loss<0.01",
    "lora.r=8 metric.loss<0.5",
    "sparrow",
    "sparrow state:ready",
]
UNWANTED = (
    r"Seq Scan on (searched|version_|adapter|tags|lineage)|SCAN (searched|version_numbers|tags|lineage|v |adapter)"
)


@pytest.fixture
def many(database: Database) -> Database:
    """A registry with many versions, of which each filter finds few."""
    registry.add_version(database, "a0")
    with database.write() as session:
        search_index.drop(session.connection())
        row = dict(session.execute(sa.select(tables.AdapterVersion.__table__)).one()._mapping)
        session.execute(sa.insert(tables.Adapter.__table__), [{"name": f"a{n}"} for n in range(1, VERSIONS // 10)])
        seeds = {"name": "seeds", "digest": registry.digest("seeds"), "format": "m", "examples": 1, "bytes": 1}
        session.execute(sa.insert(tables.Dataset.__table__), [seeds])
        session.execute(
            sa.insert(tables.Dataset.__table__), [{**seeds, "name": "sown", "digest": registry.digest("sown")}]
        )
        link = {"digest": registry.digest("seeds"), "source": registry.digest("sown")}
        session.execute(sa.insert(tables.DatasetSource.__table__), [link])
        rows = [
            {
                **row,
                "id": key,
                "adapter_id": 2 + key % (VERSIONS // 10 - 1),
                "number": key,
                "state": "quarantined" if key % 500 == 0 else "ready",
                "owner": "ana" if key % 300 == 0 else "",
                "train_digest": registry.digest("seeds" if key % 400 == 0 else "nuts"),
                "metrics": {"loss": key / VERSIONS, "rank": 8 if key % 200 == 0 else 16},
                "card": "sparrow" if key % 100 == 0 else "robin",
            }
            for key in range(2, VERSIONS)
        ]
        session.execute(sa.insert(tables.AdapterVersion.__table__), rows)
        labels = [
            {"version_id": key, "name": ("owner", "gold")[key % 2] if key % 60 < 2 else f"t{key % 30}", "value": ""}
            for key in range(2, VERSIONS)
        ]
        session.execute(sa.insert(tables.Tag.__table__), labels)
        links = [
            {"version_id": key, "position": 0, "parent_id": key // 2 + 1, "weight": 1.0} for key in range(2, VERSIONS)
        ]
        session.execute(sa.insert(tables.Parent.__table__), links)
        session.execute(sa.text("UPDATE adapter_versions SET number = 1 WHERE id = 299"))
        search_index.build(session.connection())
    if not database.is_sqlite:
        vacuum(database)
    return database


def read_plans(database: Database, query: Callable[[Session], Any]) -> list[str]:
    return [plan for table in ("searched_versions", "adapter_versions") for plan in plans_of(database, query, table)]


@pytest.mark.parametrize("few", [20_000, 1], ids=["sorted", "in order"])
def test_search_reads_no_whole_table(many: Database, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_search, "_FEW", few)
    monkeypatch.setattr(version_search, "_FEW_TEXTS", few)
    for query in QUERIES:
        for order in ("-created", "updated", "name", "-metric.loss"):
            find = lambda session, query=query, order=order: version_search.find(session, query, sort=order)  # noqa: E731
            plans = read_plans(many, find)
            assert plans
            for plan in plans:
                if many.is_sqlite and (few == 1 or not query):
                    # In order, an index is read until the page is full.
                    plan = re.sub(r"SCAN searched_versions USING (COVERING )?INDEX", "", plan)
                assert not re.search(UNWANTED, plan), (query, order, plan)


def test_number_of_few_versions_is_read_version_by_version(many: Database) -> None:
    find = lambda session: version_search.find(session, "data:sown metric.loss<2", sort="metric.loss")  # noqa: E731
    plan = plans_of(many, find, "searched_versions")[-1]
    assert re.search("MATERIALIZE few|Sort Key", plan)
    assert "ix_version_numbers_value" not in plan


@pytest.mark.parametrize("column", ["state:quarantined", "kind:train", "base:tiny", "name:a1", "owner:ana"])
def test_newest_versions_of_a_filter_are_read_in_the_order_of_its_index(many: Database, column: str) -> None:
    plans = plans_of(many, lambda session: version_search.find(session, column), "searched_versions")
    assert len(plans) == 1
    if many.is_sqlite:  # PostgreSQL may sort a few rows
        assert re.search(r"USING (COVERING )?INDEX ix_searched_versions_", plans[0])
        assert "TEMP B-TREE" not in plans[0]


def test_lists_read_no_whole_table(many: Database) -> None:
    for query in (
        lambda session: adapters.find(session, limit=20),
        lambda session: adapter_versions.find(session, "a1", limit=5),
        lambda session: adapter_versions.resolve(session, "a1"),
        lambda session: adapter_versions.resolve(session, "a1/1"),
    ):
        plans = read_plans(many, query)
        assert plans
        for plan in plans:
            # PostgreSQL may read all of a few adapters to sort them by name.
            assert not re.search(r"Seq Scan on (searched|version_|adapter_v|tags|lineage)", plan), plan
            assert not re.search(r"SCAN (searched|version_numbers|tags|lineage|adapter\w+)(?! USING)", plan), plan


@pytest.mark.parametrize("limit", [2, 50])
def test_list_of_adapters_takes_three_statements(many: Database, limit: int) -> None:
    statements: list[str] = []
    with many.read() as session:
        sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))
        assert len(adapters.find(session, limit=limit).adapters) == limit
    assert len(statements) == 3
