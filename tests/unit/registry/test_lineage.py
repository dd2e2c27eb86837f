from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import lineage
from finch_hub.registry.database import Database


def test_ancestry_reaches_the_roots(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "b")
    registry.add_version(database, "c", kind="compose", lineage=registry.made_from("a/1", "b/1"))
    registry.add_version(database, "d", kind="compose", lineage=registry.made_from("c/1", "a/1"))
    with database.read() as session:
        tree = lineage.get_ancestry(session, "d")
    assert [parent.version.reference for parent in tree.parents] == ["c/1", "a/1"]
    assert [parent.version.reference for parent in tree.parents[0].parents] == ["a/1", "b/1"]
    assert (tree.weight, tree.parents[0].weight, tree.parents[1].parents) == (1.0, 0.5, ())
    assert tree.version.lineage == registry.made_from("c/1", "a/1")


def test_deleted_version_stays_in_the_lineage_of_others(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "b", kind="quantize", lineage=registry.made_from("a/1"))
    gone = registry.delete_version(database, "a", 1)
    assert gone.deleted_at is not None
    with pytest.raises(errors.NotFound, match="no adapter 'a'"):
        registry.resolve(database, "a")
    with pytest.raises(errors.NotFound):
        registry.list_versions(database, "a")
    with database.read() as session:
        assert [parent.version for parent in lineage.get_ancestry(session, "b").parents] == [gone]
