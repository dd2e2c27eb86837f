"""Paths of outputs: what is refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.formats import output_paths
from finch_hub.formats.atomic_writes import atomic_file, atomic_folder


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which is empty, beside the home."""
    for name in ("home", "project/working"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "project/working")
    return Path.cwd()


@pytest.mark.parametrize("out", ["", "  ", "a\0b"])
def test_path_that_names_nothing_is_refused(out: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="no folder is named"):
        output_paths.find_output(out)


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize(
    ("out", "what"),
    [
        (".", "is the working directory"),
        (Path(), "is the working directory"),
        ("..", "contains the working directory"),
        ("link", "contains the working directory"),
        ("~", "is your home folder"),
        ("../../home", "is your home folder"),
        ("/", "contains your home folder"),
        ("../..", "contains your home folder"),
    ],
)
def test_folder_that_an_output_must_not_replace_is_refused_by_all_writers(out: str | Path, what: str) -> None:
    Path("link").symlink_to("..")
    with pytest.raises(errors.InvalidSpec, match=f"{what} \\(name a new folder"):
        output_paths.find_output(out)
    with (
        pytest.raises(errors.InvalidSpec, match=what),
        atomic_folder(Path(os.path.expanduser(out)), kind="merged model", replace=True),  # noqa: PTH111
    ):
        pytest.fail("the block must not run")
    assert [path.name for path in Path.cwd().iterdir()] == ["link"]


def test_path_that_the_system_cannot_have_is_refused(working: Path) -> None:
    (working / "loop").symlink_to("loop")
    too_long = ["x" * 300, f"new/{'x' * 300}", f"new/{'x' * 300}/out", "x" * 240]  # of the last, the temporary name
    refused = [*((out, "File name too long") for out in too_long), ("loop/out", "symbolic links")]
    for out, what in (*refused, ("a\udcff", "is not UTF-8")):
        with pytest.raises(errors.InvalidSpec, match=what):
            output_paths.find_output(out)
    (working / "loop").unlink()
    working.rmdir()
    with pytest.raises(errors.InvalidSpec, match="cannot be used: No such file"):
        output_paths.find_output("relative")
    assert output_paths.find_output("~/out").name == "out"


@pytest.mark.parametrize("out", ["s3://u:correct-horse@bucket/x", "https:/u:correct-horse@h/x", "ftp://h/x"])
def test_address_is_refused_without_its_credentials(out: str, working: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="is an address, and nothing is uploaded") as raised:
        output_paths.find_output(out)
    assert "correct-horse" not in str(raised.value.problems)


def test_path_of_the_longest_name_can_be_written(working: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="File name too long"):
        output_paths.find_output("x" * 238)
    out = output_paths.find_output("x" * 237)
    with atomic_file(out) as file:
        file.touch()
    out.unlink()
    with atomic_folder(out, kind="test") as folder:
        (folder / "file").touch()


def test_other_folders_become_absolute(working: Path) -> None:
    assert output_paths.find_output("new/deep") == working / "new/deep"
    assert output_paths.find_output("~/out") == working.parents[1] / "home/out"
    assert not (working / "new").exists()


def test_file_as_parent_is_refused(working: Path) -> None:
    (working / "file").touch()
    with pytest.raises(errors.InvalidSpec, match="file is not a folder"):
        output_paths.find_output("file/out")


def test_folder_that_this_user_cannot_write_is_refused(working: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (working / "closed").mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).stat().st_mode & 0o200 != 0)
    with pytest.raises(errors.InvalidSpec, match=r"cannot write to .*closed"):
        output_paths.find_output("closed/a/b")
