from __future__ import annotations

from pathlib import Path

import pytest
from support import full_hub, registry

from finch_hub.registry import registry_file, row_copies
from finch_hub.registry.database import Database


def copy_all(database: Database, file: Path) -> dict[str, list[dict[str, object]]]:
    with registry_file.open_file(file, create=True) as target, database.read() as source:
        for table in row_copies.list_tables():
            row_copies.copy_rows(source, target, table, count=lambda rows: None)
    with registry_file.open_file(file) as session:
        return {
            table.name: [row for rows in row_copies.read_rows(session, table) for row in rows]
            for table in row_copies.list_tables()
        }


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_rows_are_copied_once_each_whatever_the_batch(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Keys of one column, of two, and of texts that a database may sort by its locale."""
    for adapter in ("b-a", "ba", "B", "é", "a"):
        registry.submit(database, spec=registry.train_spec(), labels=(), idempotency_key=adapter)
        registry.add_version(database, adapter.replace("é", "e"), tags=("x.y", "xy", "X"))
    monkeypatch.setattr(row_copies, "BATCH", batch)
    expected = full_hub.read_all(database)
    assert copy_all(database, tmp_path / "copy.db").keys() == expected.keys()
    with database.read() as session:
        counts = row_copies.count_rows(session)
    with registry_file.open_file(tmp_path / "copy.db") as session:
        assert row_copies.count_rows(session) == counts
    assert {name: len(rows) for name, rows in expected.items()} == counts
    assert counts["tags"] == 15


def test_tables_stand_behind_those_that_they_refer_to() -> None:
    names: list[str] = []
    for table in row_copies.list_tables():
        assert {key.column.table.name for key in table.foreign_keys} <= {*names, table.name}
        names.append(table.name)
