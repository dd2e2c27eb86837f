from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from finch_hub.artifacts import inventory
from finch_hub.artifacts.store import ArtifactStore


def test_clock_is_that_of_the_store_or_of_the_machine_if_the_store_takes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "time", SimpleNamespace(time=lambda: 7.0))
    store = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    assert inventory.read_clock(store) > 1e9
    (tmp_path / "store/tmp").rmdir()
    (tmp_path / "store/tmp").write_bytes(b"in the way")
    assert inventory.read_clock(store) == 7.0
