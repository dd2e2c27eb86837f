"""The command line in this process, in a home of its own, with a broker that nobody serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finch_hub.cli import main
from finch_hub.display import tables


class Ran(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the settings in force."""
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINCH_BROKER_URL", valkey_url)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `finch-hub` with these words."""

    def call(*words: object) -> Ran:
        tables.console.cache_clear()  # it holds the stream of the test before
        status = main.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return call
