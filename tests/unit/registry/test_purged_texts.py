"""Texts that may quote purged data, told by the lineage."""

from __future__ import annotations

import functools

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import datasets, purged_texts, tables, values
from finch_hub.registry.database import Database
from finch_hub.specs.bundles import Manifest

NOTHING = Manifest(format=1, bases=(), adapters=(), versions=())


def add(database: Database, name: str, *parents: str, data: str | None = None) -> int:
    """Add a version, and return the id of its row."""
    lineage = values.Lineage(
        parents=registry.made_from(*parents).parents, train_digest=None if data is None else registry.digest(data)
    )
    reference = registry.add_version(database, name, lineage=lineage).reference
    with database.read() as session:
        versions, adapters = tables.AdapterVersion.__table__, tables.Adapter.__table__
        of_adapter = adapters.c.id == versions.c.adapter_id
        query = sa.select(versions.c.id).join(adapters, of_adapter).where(adapters.c.name == name)
        row_id = session.scalar(query.order_by(versions.c.number.desc()).limit(1))
    assert isinstance(row_id, int), reference
    return row_id


def purge(database: Database, data: str) -> None:
    with database.write() as session:
        datasets.add(session, digest=registry.digest(data), format="messages", examples=1)
        datasets.purge(session, registry.digest(data))


def find(database: Database, *ids: int) -> set[int]:
    with database.read() as session:
        return purged_texts._find_descendants(session, ids)


def test_descendants_of_purged_data_are_found_whatever_is_asked_with_them(database: Database) -> None:
    made = add(database, "made", data="rows")
    child = add(database, "child", "made/1", data="other")
    twice = add(database, "twice", "child/1", "made/1")
    before = add(database, "before", data="other")
    apart = add(database, "apart", "before/1")
    mixed = add(database, "mixed", "apart/1", "twice/1")
    purge(database, "rows")
    everything = [made, child, twice, before, apart, mixed]
    assert find(database, *everything) == {made, child, twice, mixed}
    assert [find(database, row_id) for row_id in everything] == [{made}, {child}, {twice}, set(), set(), {mixed}]
    assert find(database) == set()
    with database.read() as session:
        reasons = {name: purged_texts.explain_description(session, name) for name in ("made", "mixed", "apart")}
    may_quote = "since it may quote data that was purged here"
    assert reasons == {"made": may_quote, "mixed": may_quote, "apart": None}


@pytest.mark.parametrize("name", ["apart", "child0"])
def test_versions_that_nobody_asks_about_cost_nothing(database: Database, name: str) -> None:
    """Most of a hub can descend from purged data."""
    if not database.is_sqlite:
        pytest.skip("only SQLite counts its steps")
    add(database, "made", data="rows")
    asked = {"apart": add(database, "apart", data="other"), "child0": add(database, "child0", "made/1")}[name]
    purge(database, "rows")
    counts: list[int] = []
    for _ in range(2):
        with database.read() as session:
            steps: list[None] = []
            raw = session.connection().connection.driver_connection
            raw.set_progress_handler(functools.partial(steps.append, None), 1)  # type: ignore[union-attr]
            found = purged_texts.find(session, NOTHING, {})
            assert not found.versions
            assert (asked in purged_texts._find_descendants(session, [asked])) == (name == "child0")
            purged_texts.explain_description(session, name)
            raw.set_progress_handler(None, 1)  # type: ignore[union-attr]
        counts.append(len(steps))
        for number in range(1, 20):
            add(database, f"child{number}", "made/1")
    assert counts[1] < counts[0] + 19, "a step for each"
