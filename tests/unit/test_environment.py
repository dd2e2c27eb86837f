"""What the installer finds wrong with an environment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts import environment
from scripts.environment import Environment, State


@pytest.fixture
def complete(tmp_path: Path) -> Environment:
    made = environment.create(tmp_path / ".venv")
    for name in ("pip-1.0", "alpha-2.0"):
        described = made.find_packages() / f"{name}.dist-info"
        described.mkdir()
        (described / "RECORD").touch()
    version = made.read_version() or ""
    state = State(str(tmp_path), version, "cpu", "hash", "", "hash", packages=made.list_packages())
    made.write_state(state)
    return made


def test_complete_environment_has_no_fault(complete: Environment) -> None:
    assert complete.find_fault(complete.folder.parent) is None


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ("finch-installed.json", "its installation was not completed"),
        ("lib/python3.*/site-packages/pip-1.0.dist-info", "pip 1.0 is not there as it was installed"),
        ("lib/python3.*/site-packages/alpha-2.0.dist-info/RECORD", "alpha 2.0 is not there as it was installed"),
        ("bin/python", "its Python does not run"),
        (".", "its installation was not completed"),
    ],
)
def test_damage_is_found(complete: Environment, damaged: str, words: str) -> None:
    path = next(complete.folder.glob(damaged)) if damaged != "." else complete.folder
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert complete.find_fault(complete.folder.parent) == words


def test_another_python_is_found(complete: Environment) -> None:
    state = complete.read_state()
    assert state is not None
    other = State(**{**vars(state), "python": "3.1"})
    complete.write_state(other)
    assert (complete.find_fault(complete.folder.parent) or "").startswith("its Python was 3.1 and is 3.")


def test_moved_checkout_is_found(complete: Environment, tmp_path: Path) -> None:
    assert complete.find_fault(tmp_path / "moved") == f"it was made in {tmp_path}"


def test_move_corrects_scripts_and_replaces_what_is_there(tmp_path: Path) -> None:
    old = tmp_path / ".venv"
    old.mkdir()
    (old / "old").touch()
    staged = environment.create(tmp_path / ".venv-new")
    (staged.folder / "bin/tool").write_text(f"#!{staged.folder}/bin/python\n")
    staged.move(old)
    assert (old / "bin/tool").read_text() == f"#!{old}/bin/python\n"
    assert ".venv-new" not in (old / "bin/activate").read_text()
    assert not (old / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".venv"]


def test_move_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / ".venv").symlink_to(elsewhere)
    environment.create(tmp_path / ".venv-new").move(tmp_path / ".venv")
    assert elsewhere.is_dir()
    assert not (tmp_path / ".venv").is_symlink()
