"""The command line in this process, in a home of its own, with a broker that no worker serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finch_hub import Hub
from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.registry import schema_revisions, values, workers
from finch_hub.registry.database import Database
from finch_hub.workers.hostname import find_hostname


class Ran(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the current settings."""
    monkeypatch.delenv("COLUMNS", raising=False)  # which pytest's workers have
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINCH_BROKER_URL", valkey_url)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the function that calls `finch-hub` with these words."""

    def call(*words: object) -> Ran:
        tables.console.cache_clear()  # it keeps the stream of the previous test
        status = main.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return call


@pytest.fixture
def database(home: Path, make_home: Callable[[Path], None]) -> Database:
    """The database of the home."""
    if not (home / "finch.db").exists():
        make_home(home)
    with Hub() as hub:
        hub._stores.artifacts.check()  # marks the store
    return Database(f"sqlite:///{home / 'finch.db'}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten examples."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?", "completion": "Answer {n}."}}\n' for n in range(10)))
    return file


def enter_worker(database: Database) -> None:
    """Register a worker of this host with a CPU, which serves the default queue."""
    device = values.Device(kind="cpu", name="some cpu", memory_bytes=2**40, free_bytes=2**39)
    with database.write() as session:
        workers.register(
            session,
            values.WorkerDescription(
                id="gpu-1",
                hostname=find_hostname(),
                pid=1,
                version="0",
                schema_revision=schema_revisions.HEAD,
                devices=(device,),
            ),
        )
