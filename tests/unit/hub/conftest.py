"""A hub whose broker answers and has no worker, so that what is submitted stays queued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finch_hub import Hub, settings
from finch_hub.registry.database import Database


@pytest.fixture
def hub(tmp_path: Path, valkey_url: str) -> Iterator[Hub]:
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url)) as made:
        yield made


@pytest.fixture
def database(hub: Hub) -> Iterator[Database]:
    """The hub's own database, for what no hub does: the work of a worker."""
    hub.jobs.find()  # makes it
    database = Database(hub.settings.database)
    yield database
    database.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty examples."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?", "completion": "Answer {n}."}}\n' for n in range(20)))
    return file
