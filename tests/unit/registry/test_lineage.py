from typing import Any

import pytest
import sqlalchemy as sa
from rich.tree import Tree
from support import registry

from finch_hub import errors
from finch_hub.display.lineage import draw_lineage, format_mermaid
from finch_hub.registry import lineage, tables, values
from finch_hub.registry.database import Database


def test_ancestry_reaches_the_roots(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "b")
    registry.add_version(database, "c", kind="compose", lineage=registry.made_from("a/1", "b/1"))
    registry.add_version(database, "d", kind="compose", lineage=registry.made_from("c/1", "a/1"))
    with database.read() as session:
        graph = lineage.read_graph(session, "d")
    assert [version.reference for version in graph.versions] == ["d/1", "c/1", "a/1", "b/1"]
    assert [tuple(dict(link).values()) for link in graph.links] == [
        ("d/1", "c/1", 0.5),
        ("d/1", "a/1", 0.5),
        ("c/1", "a/1", 0.5),
        ("c/1", "b/1", 0.5),
    ]
    assert graph.versions[0].lineage == registry.made_from("c/1", "a/1")


def test_ancestry_grows_with_the_versions_and_not_with_the_paths_to_them(database: Database) -> None:
    """Each of these versions has two parents of the generation before, so that the paths double."""
    sizes = {}
    for generation in range(1, 15):
        older = [f"{side}/{generation - 1}" for side in ("left", "right")] if generation > 1 else []
        for side in ("left", "right"):
            registry.add_version(database, side, lineage=registry.made_from(*older))
        with database.read() as session:
            graph = lineage.read_graph(session, f"left/{generation}")
        assert len(graph.versions) == 2 * generation - 1
        assert len(graph.links) == 4 * (generation - 1) - 2 * (generation > 1)
        sizes[generation] = len(graph.model_dump_json())
    assert sizes[14] - sizes[10] < 1.1 * (sizes[10] - sizes[6])


@pytest.mark.slow
def test_ancestry_of_a_long_chain_is_found(database: Database) -> None:
    registry.add_version(database, "chain")
    with database.write() as session:
        first = session.execute(sa.select(tables.AdapterVersion.__table__)).one()._mapping
        numbers = range(2, 1502)
        rows = [{**first, "id": first["id"] + number - 1, "number": number} for number in numbers]
        session.execute(sa.insert(tables.AdapterVersion), rows)
        links = [{"version_id": row["id"], "position": 0, "parent_id": row["id"] - 1, "weight": 1.0} for row in rows]
        session.execute(sa.insert(tables.Parent), links)
    with database.read() as session:
        graph = lineage.read_graph(session, "chain/1501")
    assert (len(graph.versions), len(graph.links)) == (1501, 1500)
    (drawn,) = draw_lineage(graph).renderables
    assert isinstance(drawn, Tree)
    for _ in range(1500):
        (drawn,) = drawn.children
    assert drawn.label == "chain/1 x 1 (train)"


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
        (parent,) = lineage.read_graph(session, "b").versions[1:]
    assert (parent.reference, parent.deleted_at) == ("a/1", gone.deleted_at)


@pytest.fixture
def braid(database: Database) -> Database:
    """a and b make c, which makes d, and a makes e."""
    for name, parents in {"a": (), "b": (), "c": ("a/1", "b/1"), "d": ("c/1",), "e": ("a/1",)}.items():
        registry.add_version(database, name, lineage=registry.made_from(*parents))
    return database


def test_descendants_are_what_was_made_from_a_version(braid: Database) -> None:
    with braid.read() as session:
        graph = lineage.read_graph(session, "a", "descendants")
        leaf = lineage.read_graph(session, "d", "descendants")
    assert [version.reference for version in graph.versions] == ["a/1", "c/1", "e/1", "d/1"]
    assert {(link.parent, link.version) for link in graph.links} == {("a/1", "c/1"), ("a/1", "e/1"), ("c/1", "d/1")}
    assert ([version.reference for version in leaf.versions], leaf.links) == (["d/1"], ())


def test_both_directions_have_no_relatives_of_relatives(braid: Database) -> None:
    with braid.read() as session:
        graph = lineage.read_graph(session, "c", "both")
    assert {version.reference for version in graph.versions} == {"a/1", "b/1", "c/1", "d/1"}
    assert len(graph.links) == 3


def test_deleted_descendants_are_there_too(braid: Database) -> None:
    registry.delete_version(braid, "d", 1)
    with braid.read() as session:
        assert lineage.read_graph(session, "c", "descendants").versions[1].deleted_at is not None


def count_statements(database: Database, name: str) -> int:
    statements: list[str] = []

    def count(*arguments: Any) -> None:
        statements.append(arguments[2])

    with database.read() as session:
        sa.event.listen(session.get_bind(), "before_cursor_execute", count)
        try:
            lineage.read_graph(session, name, "descendants")
        finally:
            sa.event.remove(session.get_bind(), "before_cursor_execute", count)
    return len(statements)


def test_number_of_statements_does_not_grow_with_the_graph(braid: Database) -> None:
    assert count_statements(braid, "a") == count_statements(braid, "c") <= 10


@pytest.mark.parametrize("direction", ["ancestors", "descendants", "both"])
def test_graph_of_a_damaged_lineage_has_what_is_there(braid: Database, direction: values.Direction) -> None:
    links = "INSERT INTO lineage (version_id, position, parent_id, weight) VALUES"
    registry.change_rows(braid, f"{links} (3, 7, 999, 1.0), (1, 8, 4, 1.0)")  # an orphan, and the circle of a, d and c
    with braid.read() as session:
        graph = lineage.read_graph(session, "c", direction)
    assert {"a/1", "c/1", "d/1"} <= {version.reference for version in graph.versions}
    assert graph.incomplete == ("c/1",)
    assert draw_lineage(graph).renderables[-1] == "The registry lacks a parent of c/1 (run `finch-hub fsck`)"
    assert len(format_mermaid(graph)) > len(graph.versions)


def test_version_without_the_row_of_its_base_is_named(braid: Database) -> None:
    registry.change_rows(braid, "UPDATE adapter_versions SET base_id = 99 WHERE id = 1")
    with braid.read() as session, pytest.raises(errors.Damaged, match=r"a/1: its base is not in the registry .run"):
        lineage.read_graph(session, "c", "both")
