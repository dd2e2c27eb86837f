from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_versions, artifact_references, bases, evaluations, lineage, tables
from finch_hub.registry.database import Database

TEXTS: dict[str, Any] = {"spec": {"system": "x"}, "metrics": {"loss_after": 1.0}, "card": "A card."}


@pytest.fixture
def versions(database: Database) -> Database:
    """Two adapters, each with two versions that have everything."""
    for name in ("legal", "medical"):
        for number in (1, 2):
            digest = registry.digest(f"{name}/{number}")
            registry.add_version(database, name, tags=["gold"], digest=digest, **TEXTS)
    with database.write() as session:
        for reference in (None, "legal/1", "medical/1"):
            evaluations.add(
                session, base_id=1, dataset="0" * 64, evaluator="held_out_loss", metrics={}, adapter=reference
            )
    return database


def count(database: Database, table: type[tables.Table]) -> int:
    with database.read() as session:
        return session.scalars(sa.select(sa.func.count()).select_from(table)).one()


def ancestors(database: Database, reference: str) -> list[tuple[str, bool, bool]]:
    with database.read() as session:
        found = lineage.read_graph(session, reference).versions
    return [(v.reference, v.deleted_at is not None, v.purged_at is not None) for v in found]


def test_purged_version_keeps_its_number_and_nothing_else(versions: Database) -> None:
    purged = registry.purge(versions, "legal/1")
    assert (purged.versions, purged.trees) == (("legal/1",), (registry.digest("legal/1"),))
    assert (count(versions, tables.Tag), count(versions, tables.Evaluation)) == (3, 2)
    with versions.read() as session:
        row = adapter_versions.get_row(session, "legal/1", deleted=True)
        assert (row.spec, row.metrics, row.card, row.environment) == ({}, {}, "", {})
        assert row.deleted_at is not None
        assert registry.digest("legal/1") not in artifact_references.find_trees(session, kept_seconds=None)
        assert not artifact_references.find_references(session).deleted_trees
    with pytest.raises(errors.Deleted, match=r"adapter version legal/1 was purged"):
        registry.resolve(versions, "legal/1")
    for change in (registry.purge, registry.restore):
        with pytest.raises(errors.Deleted, match=r"adapter version legal/1 was purged"):
            change(versions, "legal/1")
    assert registry.resolve(versions, "legal").number == 2
    registry.purge(versions, "legal/2")
    assert registry.add_version(versions, "legal").number == 3


def test_name_of_a_purged_adapter_is_free_and_its_numbers_go_on(versions: Database) -> None:
    registry.delete(versions, "legal")
    assert registry.purge(versions, "legal").versions == ("legal/1", "legal/2")
    for change in (registry.purge, registry.delete, registry.restore):
        with pytest.raises(errors.FinchError):
            change(versions, "legal")
    assert registry.add_version(versions, "legal").number == 3
    assert registry.purge(versions, "legal").versions == ("legal/3",)


def test_adapter_whose_last_deleted_version_is_purged_is_no_longer_deleted(versions: Database) -> None:
    registry.delete(versions, "legal")
    registry.purge(versions, "legal/1")
    with pytest.raises(errors.Deleted, match="adapters restore legal"):
        registry.add_version(versions, "legal")
    registry.purge(versions, "legal/2")
    assert registry.add_version(versions, "legal").number == 3


def test_purge_names_all_that_depends_on_the_version(versions: Database) -> None:
    registry.add_version(versions, "both", kind="compose", lineage=registry.made_from("legal/1", "medical/1"))
    registry.add_version(versions, "less", kind="quantize", lineage=registry.made_from("legal/1"))
    registry.delete(versions, "less/1")
    registry.set_alias(versions, "legal", "best", 1)
    job = registry.submit(versions, spec=registry.merge_spec("legal/1"))
    message = (
        "cannot purge adapter legal/1: 3 reasons\n"
        "  it has the alias legal@best (move or delete the alias first, as in"
        " `finch-hub adapters alias legal best --delete`)\n"
        f"  job {job.id} needs it (cancel the job or wait until it ends)\n"
        "  both/1, less/1 (deleted) were made of it (purge those first)"
    )
    for reference in ("legal/1", "legal"):
        with pytest.raises(errors.Conflict, match=re.escape(message.replace("legal/1:", f"{reference}:"))):
            registry.purge(versions, reference)


def test_lineage_marks_what_is_deleted_and_what_is_purged(versions: Database) -> None:
    registry.add_version(versions, "both", kind="compose", lineage=registry.made_from("legal/1", "medical/1"))
    registry.add_version(versions, "last", kind="quantize", lineage=registry.made_from("both/1"))
    registry.delete(versions, "both/1")
    registry.delete(versions, "legal/1")
    assert ancestors(versions, "last") == [
        ("last/1", False, False), ("both/1", True, False), ("legal/1", True, False), ("medical/1", False, False)
    ]  # fmt: skip
    with pytest.raises(errors.Conflict, match=r"both/1 .deleted. was made of it"):
        registry.purge(versions, "legal/1")
    with pytest.raises(errors.Conflict, match="last/1 was made of it"):
        registry.purge(versions, "both/1")
    registry.purge(versions, "last/1")
    registry.purge(versions, "both/1")
    registry.purge(versions, "legal/1")
    with versions.read() as session:
        assert [parent.reference for parent in adapter_versions.get_row(session, "last/1", deleted=True).parents] == [
            "both/1"
        ]


def test_versions_that_were_made_of_each_other_are_purged_together(versions: Database) -> None:
    registry.add_version(versions, "legal", kind="quantize", lineage=registry.made_from("legal/1"))
    with pytest.raises(errors.Conflict, match="legal/3 was made of it"):
        registry.purge(versions, "legal/1")
    assert len(registry.purge(versions, "legal").versions) == 3


def test_child_of_a_purged_version_is_refused(versions: Database) -> None:
    registry.purge(versions, "legal/1")
    with pytest.raises(errors.Deleted, match="legal/1 was purged"):
        registry.add_version(versions, "both", lineage=registry.made_from("legal/1"))


def test_base_of_purged_versions_can_be_removed(versions: Database) -> None:
    for name in ("legal", "medical"):
        registry.purge(versions, name)
    with versions.write() as session:
        bases.remove(session, "tiny")


def test_every_table_that_names_a_version_is_purged_or_kept_for_a_reason() -> None:
    """A table that is new, and whose rows tell of a version, is purged by the name of its column."""
    of_versions = {
        table.name: {
            key.parent.name
            for key in table.foreign_keys
            if key.column.table.name == tables.AdapterVersion.__tablename__
        }
        for table in tables.Table.metadata.sorted_tables
    }
    named = {name: columns for name, columns in of_versions.items() if columns}
    assert named.pop("lineage") == {"version_id", "parent_id"}
    assert named.pop("aliases") == {"version_id"}
    assert all(columns == {"version_id"} for columns in named.values()), named
