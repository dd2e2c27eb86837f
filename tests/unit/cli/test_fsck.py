"""`finch-hub fsck` and `finch-hub adapters verify`: what they say, and their exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub import Hub
from finch_hub.artifacts.store import blob_path
from finch_hub.cli import main
from finch_hub.registry.database import Database


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
        assert "from `artifacts` of a backup to the store, or delete this version and make it again" in error
    assert main.main(["fsck", "--quiet", "--json"]) == 11
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["kind"], finding["where"]) == ("damage", "adapter guest/1")


def test_advice_for_a_damaged_file_mends_it(
    weights: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["backup", str(tmp_path / "backup"), "--quiet"]) == 0
    whole = weights.read_bytes()
    for mend in ("copy", "make again"):
        weights.chmod(0o600)
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        capsys.readouterr()
        assert main.main(["fsck", "--quiet"]) == 11
        path = capsys.readouterr().err.partition("(copy ")[2].partition(" from `artifacts` of a backup")[0]
        if mend == "copy":
            shutil.copyfile(tmp_path / "backup" / "artifacts" / path, tmp_path / "home" / "artifacts" / path)
        else:
            assert main.main(["adapters", "delete", "guest/1", "--yes"]) == 0
            assert main.main(["adapters", "import", str(tmp_path / "guest"), "--name", "guest", "--base", "tiny"]) == 0
        assert main.main(["fsck", "--quiet"]) == 0


def test_advice_for_a_damaged_row_mends_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights.is_file()
    assert main.main(["backup", str(tmp_path / "backup"), "--quiet"]) == 0
    database = Database(f"sqlite:///{tmp_path / 'home' / 'finch.db'}")
    registry.change_rows(database, f"UPDATE adapter_versions SET identity = '{'a' * 64}'")
    database.close()
    assert main.main(["fsck", "--quiet"]) == 11
    assert "restore a backup into a new hub with `finch-hub restore`" in capsys.readouterr().err
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "second"))
    assert main.main(["restore", str(tmp_path / "backup"), "--quiet"]) == 0
    assert main.main(["fsck", "--quiet"]) == 0


def test_database_that_cannot_be_opened_does_not_hide_damaged_files(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.unlink()
    file = tmp_path / "home" / "finch.db"
    data = bytearray(file.read_bytes())
    data[100:164] = b"\xff" * 64  # of the schema
    file.write_bytes(data)
    assert main.main(["fsck", "--quiet"]) == 11
    error = capsys.readouterr().err
    assert "database: cannot read the database: " in error
    assert "store: trees/" in error
    assert "adapter_model.safetensors: there is no artifact" in error
