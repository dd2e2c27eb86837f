"""`finch-hub bundle` and `finch-hub unbundle`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.adapters import save_adapter

from .conftest import Run


def test_versions_go_to_another_hub_and_are_checked_there(
    run: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    made = save_adapter(base, tmp_path / "made", r=4, target_modules=["q_proj"])
    assert run("bases", "add", base, "--name", "tiny").status == 0
    assert run("adapters", "import", made, "--name", "visitor", "--base", "tiny").status == 0
    assert run("adapters", "rename", "visitor", "guest").status == 0
    assert run("adapters", "alias", "guest/1", "best").status == 0
    file = tmp_path / "guest.bundle"
    done = run("bundle", file, "guest@best", "--quiet")
    assert done.out.startswith("Bundled 1 version, ")
    assert done.err == f"Take it into another hub: finch-hub unbundle {file}\n"
    assert run("bundle", file, "guest").status == 4
    assert run("bundle", tmp_path / "other", "guets").status == 3
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "second"))
    dry = run("unbundle", file, "--dry-run", "--json", "--quiet")
    assert dry.json["versions"][0]["outcome"] == "added"
    assert dry.json["former_names"] == {}
    assert run("adapters", "list", "--json").json["adapters"] == []
    done = run("unbundle", file, "--quiet")
    assert done.out.splitlines() == [
        f"Took 1 version from {file}",
        "guest/1: added (unchecked)",
        "Former name visitor now stands for guest",
        "Kept: no alias guest@best, since guest/1 is unchecked",
    ]
    assert "the files of base tiny are not on this machine" in done.err
    assert run("bases", "add", base, "--name", "tiny").status == 0
    assert run("adapters", "check", "visitor/1").out == "Checked guest/1 (ready)\n"
    again = run("unbundle", file, "--quiet").out.splitlines()
    assert again == [
        f"Took no version from {file}: this hub knows its version",
        "guest/1: known (ready)",
        "Set alias guest@best",
    ]
    (moved,) = run("audit", "--action", "alias.move", "--json").json
    assert (moved["on"], moved["details"]["to"]) == ("guest@best", 1)
    shown = run("adapters", "show", "guest@best").out
    assert "a bundle: guest/1, ready, of hub" in shown
    details = run("audit", "--action", "version.create").out
    assert "bundle hub" in " ".join(details.split())
    assert "{" not in details
    assert run("unbundle", tmp_path / "missing").status == 3
    (tmp_path / "damaged").write_bytes(file.read_bytes()[:5000])
    assert run("unbundle", tmp_path / "damaged").status == 2


def test_state_elsewhere_outlives_the_check(
    run: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy as sa

    from finch_hub.registry import tables
    from finch_hub.registry.database import Database

    made = save_adapter(tiny_folder, tmp_path / "made", r=4, target_modules=["q_proj"])
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    assert run("adapters", "import", made, "--name", "guest", "--base", "tiny").status == 0
    database = Database(f"sqlite:///{tmp_path / 'home' / 'finch.db'}")
    with database.write() as session:
        session.execute(sa.update(tables.AdapterVersion).values(state="below_retention"))
    database.close()
    assert run("bundle", tmp_path / "x", "guest", "--quiet").status == 0
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "second"))
    assert run("unbundle", tmp_path / "x", "--quiet").status == 0
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    assert run("adapters", "check", "guest/1").out == "Checked guest/1 (below_retention)\n"
