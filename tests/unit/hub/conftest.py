"""A hub with a broker and without a worker, so that submitted jobs stay queued."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import registry

from finch_hub import Hub, settings
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import TrainSpec


@pytest.fixture
def hub(tmp_path: Path, valkey_url: str, layout_cache: Path, make_home: Callable[[Path], None]) -> Iterator[Hub]:
    make_home(tmp_path / "home")
    (tmp_path / "home" / "bases").symlink_to(layout_cache)
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url)) as made:
        yield made


@pytest.fixture
def database(hub: Hub) -> Iterator[Database]:
    """The hub's database, for writing what workers write."""
    hub._stores.artifacts.check()  # marks the store
    database = Database(hub.settings.database)
    yield database
    database.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty examples."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?", "completion": "Answer {n}."}}\n' for n in range(20)))
    return file


@pytest.fixture
def versions(database: Database) -> Database:
    """Two adapters of one base, of ranks 4 and 8, and one of another."""
    registry.add_version(database, "medical", metrics={"rank": 4})
    registry.add_version(database, "legal", metrics={"rank": 8})
    registry.add_version(database, "poetry", base="other")
    return database


def train_spec(hub: Hub, data: Any, **options: Any) -> TrainSpec:
    """Submit a training and return its specification."""
    spec = hub.train(data, adapter="birds", **options).spec
    assert isinstance(spec, TrainSpec)
    return spec
