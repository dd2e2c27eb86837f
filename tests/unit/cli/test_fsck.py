"""`finch-hub fsck` and `finch-hub adapters verify`: what they say, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.adapters import save_adapter

from finch_hub import Hub
from finch_hub.artifacts.store import blob_path
from finch_hub.cli import main


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    """The stored file of an adapter's weights."""
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    with Hub() as hub:
        hub.bases.add(tiny_folder, name="tiny")
        source = save_adapter(tiny_folder, tmp_path / "guest", r=4, lora_alpha=8, target_modules=["q_proj"])
        version = hub.import_adapter(source, name="guest", base="tiny")
        entries = hub._stores.artifacts.tree(version.digest)
    return tmp_path / "home" / "artifacts" / blob_path(entries["adapter_model.safetensors"].digest)


def test_hub_that_is_well_exits_with_0(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.is_file()
    assert main.main(["fsck", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("Read 1 adapter folder, 4 files, ")
    assert main.main(["adapters", "verify", "guest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_damage_is_named_and_exits_with_11(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.unlink()
    for words in (["fsck", "--quiet"], ["adapters", "verify", "guest"]):
        assert main.main(words) == 11
        error = capsys.readouterr().err
        assert "is damaged:\n  adapter guest/1: adapter_model.safetensors: " in error
        assert "restore the store from a backup" in error
    assert main.main(["fsck", "--quiet", "--json"]) == 11
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["kind"], finding["where"]) == ("damage", "adapter guest/1")
