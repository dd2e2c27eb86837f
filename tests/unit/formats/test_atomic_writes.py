from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.formats import atomic_writes
from finch_hub.formats.finch_record import write_record

KIND = "nest"


def make(out: Path, text: str, *, replace: bool = False) -> None:
    with atomic_writes.atomic_folder(out, kind=KIND, replace=replace) as folder:
        (folder / "egg").write_text(text)
        write_record(folder, KIND, {})
        assert not (out / "egg").exists() or (out / "egg").read_text() != text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_success_gives_the_complete_folder(tmp_path: Path) -> None:
    make(tmp_path / "deep" / "out", "1")
    assert (tmp_path / "deep" / "out" / "egg").read_text() == "1"
    assert names(tmp_path / "deep") == ["out"]


def test_failure_leaves_nothing_and_keeps_the_earlier_folder(tmp_path: Path) -> None:
    make(tmp_path / "out", "1")

    def fail() -> None:
        with atomic_writes.atomic_folder(tmp_path / "out", kind=KIND, replace=True) as folder:
            (folder / "egg").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "egg").read_text() == "1"


def test_replace_accepts_folders_of_the_same_kind_only(tmp_path: Path) -> None:
    make(tmp_path / "out", "1")
    with pytest.raises(errors.Conflict, match="replace=True"):
        make(tmp_path / "out", "2")
    make(tmp_path / "out", "2", replace=True)
    assert (tmp_path / "out" / "egg").read_text() == "2"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "egg").write_text("cuckoo")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("other", "file", "link"):
        with pytest.raises(errors.Conflict, match="not an earlier nest"):
            make(tmp_path / name, "3", replace=True)
    assert (tmp_path / "other" / "egg").read_text() == "cuckoo"


def test_job_replaces_its_own_folder_and_no_other(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with atomic_writes.write_for("a"):
            make(tmp_path / "out", text)
        assert (tmp_path / "out" / "egg").read_text() == text
    with pytest.raises(errors.Conflict, match="earlier nest"), atomic_writes.write_for("b"):
        make(tmp_path / "out", "3")
    with pytest.raises(errors.Conflict, match="earlier nest"):
        make(tmp_path / "out", "3")
    with atomic_writes.write_for("b"):
        make(tmp_path / "out", "3", replace=True)
    with pytest.raises(errors.Conflict), atomic_writes.write_for("a"):
        make(tmp_path / "out", "4")
    make(tmp_path / "mine", "1")
    with pytest.raises(errors.Conflict, match="earlier nest"), atomic_writes.write_for("a"):
        make(tmp_path / "mine", "2")


def test_another_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def overtaken() -> None:
        with atomic_writes.atomic_folder(tmp_path / "out", kind=KIND) as folder:
            (folder / "egg").write_text("1")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "egg").write_text("other")

    with pytest.raises(errors.Conflict):
        overtaken()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "egg").read_text() == "other"


def test_abandoned_temporary_folders_are_removed_and_locked_ones_kept(tmp_path: Path) -> None:
    living, abandoned = (tmp_path / f".out.{name}.part" for name in ("living", "abandoned"))
    living.mkdir()
    abandoned.mkdir()
    lock = os.open(living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        make(tmp_path / "out", "1")
    finally:
        os.close(lock)
    assert names(tmp_path) == [".out.living.part", "out"]


def test_unwritable_path_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.Unavailable, match=r"could not write .*file/out"):
        make(tmp_path / "file" / "out", "1")


@pytest.mark.parametrize("source", ["missing", "loop", "dir/"])
def test_unreadable_source_is_named_in_the_error(tmp_path: Path, source: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "loop").symlink_to("loop")

    def copy() -> None:
        with atomic_writes.atomic_folder(tmp_path / "out", kind=KIND) as folder:
            shutil.copyfile(tmp_path / source, folder / "egg")

    with pytest.raises(errors.Unavailable, match=rf"could not read {tmp_path / source}: \w.*nothing was left"):
        copy()
    assert names(tmp_path) == ["dir", "loop"]


def test_file_of_the_output_that_cannot_be_written_is_no_source(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_writes.atomic_folder(tmp_path / "out", kind=KIND) as folder:
            (folder / "sub" / "egg").write_text("1")

    with pytest.raises(errors.Unavailable, match=rf"could not write {tmp_path / 'out'}: No such"):
        write()


def test_replace_of_a_link_replaces_its_target(tmp_path: Path) -> None:
    make(tmp_path / "out", "1")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    make(tmp_path / "link", "2", replace=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out" / "egg").read_text() == "2"
    assert names(tmp_path) == ["link", "out"]


def test_temporary_folder_removed_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    taken: list[Path] = []

    def late(fd: int, operation: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob(".out.*.part"))
            taken[0].rmdir()  # as another writer does if it finds the folder unlocked
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    make(tmp_path / "out", "1")
    assert taken
    assert names(tmp_path) == ["out"]


def test_failed_rename_restores_the_earlier_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", "1")
    rename, renamed = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        renamed.append(self.name)
        if len(renamed) == 2:
            atomic_writes.remove_abandoned(tmp_path, "out")  # another writer starts at this moment
            raise OSError(5, "I/O error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(errors.Unavailable, match="I/O error"):
        make(tmp_path / "out", "2", replace=True)
    assert (tmp_path / "out" / "egg").read_text() == "1"


def test_abandoned_temporary_folder_with_brackets_in_its_name_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".m[1].dead.part").mkdir()
    make(tmp_path / "m[1]", "1")
    assert names(tmp_path) == ["m[1]"]


def test_scratch_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from finch_hub.formats.atomic_writes import scratch_folder
with scratch_folder(Path({str(tmp_path / "import")!r})) as folder:
    (folder / "weights").write_bytes(b"1")
    print(folder, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        atomic_writes.remove_abandoned(tmp_path)
        assert (folder / "weights").exists()
        assert folder.stat().st_mode & 0o777 == 0o700
        process.kill()
    atomic_writes.remove_abandoned(tmp_path, "export")
    assert folder.exists()
    with atomic_writes.scratch_folder(tmp_path / "import") as own:
        assert names(tmp_path) == [own.name]
    assert names(tmp_path) == []


def test_what_only_has_the_name_of_an_abandoned_folder_is_left(tmp_path: Path) -> None:
    """Another user may have made it in the system's folder for temporary files."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "egg").write_text("1")
    (tmp_path / ".out.link.part").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / ".out.pipe.part")
    (tmp_path / ".out.file.part").write_text("1")
    atomic_writes.remove_abandoned(tmp_path)
    assert names(tmp_path) == [".out.file.part", ".out.link.part", ".out.pipe.part", "other"]
    assert (tmp_path / "other" / "egg").exists()
