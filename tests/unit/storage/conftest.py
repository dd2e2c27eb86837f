"""Hubs to back up and to restore into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import full_hub
from support.backups import Open

from finch_hub.storage.backup import take_backup
from finch_hub.storage.stores import Stores


@pytest.fixture
def open_hub(tmp_path: Path, make_home: Callable[[Path], None]) -> Iterator[Open]:
    """Return the function that opens a hub of a name; None for its database takes the SQLite file of its home."""
    opened: list[Stores] = []

    def call(name: str, database_url: str | None = None, **changes: Any) -> Stores:
        home = tmp_path / name / "home"
        if not home.exists():
            make_home(home)
        opened.append(full_hub.open_hub(tmp_path / name, database_url, **changes))
        return opened[-1]

    yield call
    for stores in opened:
        stores.database.close()


@pytest.fixture
def source(open_hub: Open, tmp_path: Path) -> Stores:
    """A hub with rows in every table, on SQLite."""
    stores = open_hub("source")
    full_hub.fill(stores, tmp_path / "source")
    return stores


@pytest.fixture
def backup(source: Stores, tmp_path: Path) -> Path:
    """A backup of that hub."""
    take_backup(tmp_path / "backup", source)
    return tmp_path / "backup"


@pytest.fixture
def target(open_hub: Open) -> Stores:
    """A new hub on SQLite."""
    return open_hub("target")
