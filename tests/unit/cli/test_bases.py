"""`finch-hub bases`: what is said of other files under one name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from support.models import DEFAULT, save_model

from finch_hub import progress

from .conftest import Run


def test_moved_branch_is_said_with_the_command_that_brings_the_earlier_base_back(
    run: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (tmp_path / "snapshots" / (letter * 40) for letter in "ab")
    shutil.copytree(tiny_folder, old)
    save_model(DEFAULT, new, seed=1)
    main = [old]

    def snapshot_download(name: str, *, revision: str | None = None, **_: Any) -> str:
        return str(main[0] if revision is None else tmp_path / "snapshots" / revision)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert "other files" not in run("bases", "add", "org/tiny").err
    main[0] = new
    ran = run("bases", "add", "org/tiny")
    assert "org/tiny has other files than before. The earlier base and its adapters stay.\n" in ran.err
    command = f"finch-hub bases add org/tiny --revision {'a' * 40}"
    assert f"To bring it back: {command}\n" in ran.err
    back = run(*command.split()[1:])
    assert back.status == 0
    assert "Renamed base" in back.out
    assert str(old) in back.out


def test_replaced_files_of_a_folder_are_said(run: Run, tmp_path: Path) -> None:
    folder = save_model(DEFAULT, tmp_path / "base")
    assert run("bases", "add", folder, "--name", "tiny").status == 0
    save_model(DEFAULT, folder, seed=1)
    ran = run("bases", "add", folder)
    assert "The earlier base and its adapters stay as tiny.\n" in ran.err
    assert "To bring it back" not in ran.err


def test_slow_additions_tell_how_far_they_are(
    run: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LEAST_SECONDS", 0.0)
    ran = run("bases", "add", shutil.copytree(tiny_folder, tmp_path / "copy"), "--json")
    assert ran.json["name"].endswith("copy")
    assert "  MB hashed 0" in ran.err


def test_license_is_read_from_the_files_and_a_given_one_stays(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlicense_link: LICENSE\n---\n# Tiny\n")
    added = run("bases", "add", folder, "--name", "tiny", "--json").json
    assert (added["license"], added["license_link"]) == ("apache-2.0", "LICENSE")
    assert run("bases", "add", folder, "--name", "tiny", "--license", "MIT").status == 0
    assert run("bases", "add", folder, "--name", "tiny").status == 0
    shown = run("bases", "show", "tiny", "--json").json
    assert (shown["license"], shown["license_link"]) == ("mit", None)
    assert [
        line.split()[1] for line in run("bases", "show", "tiny").out.splitlines() if line.startswith("license ")
    ] == ["mit"]
    refused = run("bases", "add", folder, "--license", "unknown")
    assert refused.status == 2
    assert "license: 'unknown' does not name a license (give its name, or leave the license out)" in refused.err
    assert run("bases", "show", "tinny").status == 3
