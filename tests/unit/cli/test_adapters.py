"""`finch-hub adapters`."""

from __future__ import annotations

import shutil
from pathlib import Path

from support import registry
from support.adapters import save_adapter

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
    (listed,) = run("adapters", "list", "--json").json["adapters"]
    assert (listed["newest"]["number"], listed["aliases"]) == (2, {"best": 1})
    assert [version["number"] for version in run("adapters", "versions", "medical", "--json").json["versions"]] == [
        2,
        1,
    ]
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


def test_import_says_what_it_left_out_and_a_check_ends_the_state_unchecked(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    made = save_adapter(base, tmp_path / "made", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    (made / "optimizer.pt").write_bytes(b"x")
    assert run("bases", "add", base, "--name", "tiny", "--id", "birds/tiny").status == 0
    assert run("bases", "add", base, "--id", "not an id").status == 2
    shutil.move(base, tmp_path / "away")
    shown = run("adapters", "import", made, "--name", "guest", "--base", "tiny").out.splitlines()
    assert shown[0] == "Imported guest/1 (unchecked)"
    assert "Ignored files beside it: README.md, optimizer.pt" in shown
    assert shown[-1].startswith("It has whole modules (modules_to_save), so it cannot be used by: generate, evaluate")
    refused = run("export", "guest/1", "--out", tmp_path / "out")
    assert (refused.status, "adapters check guest/1" in refused.err) == (4, True)
    shutil.move(tmp_path / "away", base)
    assert run("adapters", "check", "guest/1").out == "Checked guest/1 (ready)\n"
    again = run("adapters", "import", made, "--name", "again", "--base", "tiny").out
    assert "It is the same adapter as guest/1" in again
    drawn = run("adapters", "show", "again").out
    assert "optimizer.pt" in drawn
    described = run("adapters", "show", "again", "--json").json
    assert "merge" not in described["limits"]["whole modules (modules_to_save)"]
    assert described["spec"]["import"]["ignored_files"] == ["README.md", "optimizer.pt"]


def test_version_and_alias_that_a_job_needs_are_not_deleted(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "legal")
    registry.set_alias(database, "legal", "best", 1)
    job = registry.submit(database, spec=registry.merge_spec("medical/1", "legal@best"))
    for command in (["adapters", "delete", "medical/1"], ["adapters", "alias", "legal", "best", "--delete"]):
        refused = run(*command)
        assert refused.status == 4
        assert f"job {job.id} needs it (cancel the job or wait until it ends)" in " ".join(refused.err.split())
    assert run("bases", "remove", "tiny").status == 4
    registry.cancel(database, job)
    assert run("adapters", "delete", "medical/1").status == 0
