"""`finch-hub adapters`."""

from __future__ import annotations

from pathlib import Path

from support import registry

from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry.database import Database

from .conftest import Run


def test_adapters_are_listed_tagged_aliased_and_deleted(run: Run, database: Database) -> None:
    metrics = {"loss_before": 3.0, "loss_after": 2.0, "rank": 16}
    registry.add_version(database, "medical", metrics=metrics)
    registry.add_version(database, "medical", metrics=metrics, digest=registry.digest("2"))
    assert "loss 3.000 -> 2.000" in run("adapters", "list").out
    assert run("adapters", "alias", "medical/1", "best").out == "Set alias medical@best to medical/1\n"
    assert run("adapters", "alias", "medical/1", "best").out == "Set alias medical@best to medical/1\n"
    assert run("adapters", "alias", "medical/2", "best", "--expected", 2).status == 4
    assert run("adapters", "tag", "medical@best", "gold", "checked").out == "Tagged medical/1: checked, gold\n"
    assert run("adapters", "tag", "medical/1", "gold", "--remove").out == "Tagged medical/1: checked\n"
    (listed,) = run("adapters", "list", "--json").json
    assert (listed["newest"]["number"], listed["aliases"]) == (2, {"best": 1})
    assert [version["number"] for version in run("adapters", "versions", "medical", "--json").json] == [2, 1]
    assert "medical/2" in run("adapters", "lineage", "medical").out
    assert run("adapters", "delete", "medical/1").status == 4  # an alias points at it
    assert run("adapters", "alias", "medical", "best", "--delete").out == "Deleted alias medical@best\n"
    assert run("adapters", "delete", "medical/1").out == "Deleted medical/1. Its number will not be reused.\n"
    assert run("adapters", "alias", "medical/2", "latest").status == 2


def test_folder_of_a_version_is_printed_in_one_line(run: Run, database: Database, home: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "adapter_config.json").touch()
    store = ArtifactStore(str(home / "artifacts"), cache=home / "cache" / "artifacts")
    registry.add_version(database, "medical", digest=store.put_tree(tmp_path / "files"))
    (folder,) = run("adapters", "path", "medical").out.splitlines()
    assert Path(folder, "adapter_config.json").is_file()
    assert run("adapters", "path", "medical", "--json").json == {"folder": folder}
