from __future__ import annotations

from pathlib import Path

from finch_hub.specs.value import Value
from finch_hub.workers.runs.channel import CHECKPOINTS
from finch_hub.workers.runs.job_kind import Outcome
from finch_hub.workers.supervision.work_folders import WorkFolders


class Text(Value):
    text: str


KEPT = {"report": {"text": "x"}}


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_new_folder_starts_with_the_latest_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    first, second = folders.begin("job", 1), folders.begin("job", 3)
    write(first / CHECKPOINTS / "step-5" / "state", "old")
    write(second / CHECKPOINTS / "step-9" / "state", "new")
    write(second / "adapter" / "weights", "half written")
    third = folders.begin("job", 12)
    assert (third / CHECKPOINTS / "step-9" / "state").read_text() == "new"
    assert [path.name for path in third.iterdir()] == [CHECKPOINTS]


def test_latest_attempt_with_checkpoints_is_found(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    assert folders.find_checkpoints("job", before=5) == 0
    for fence in (2, 10, 11):
        write(folders.begin("job", fence) / CHECKPOINTS / f"step-{fence}" / "state", "x")
    write(folders.begin("job", 3) / "adapter" / "weights", "half written")
    write(folders.folder_of("job", 4) / CHECKPOINTS / ".unfinished-step-4" / "state", "half written")
    assert [folders.find_checkpoints("job", before=fence) for fence in (2, 3, 11, 12)] == [0, 2, 10, 11]
    assert folders.find_checkpoints("job", before=10) == 3, "it has those of the attempt before it"


def test_file_that_a_later_attempt_replaces_stays_in_the_earlier_folder(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    first = folders.begin("job", 1)
    write(first / CHECKPOINTS / "state", "first's")
    second = folders.begin("job", 2)
    write(second / CHECKPOINTS / "part", "second's")
    (second / CHECKPOINTS / "part").replace(second / CHECKPOINTS / "state")
    assert (first / CHECKPOINTS / "state").read_text() == "first's"
    assert (second / CHECKPOINTS / "state").read_text() == "second's"


def test_folder_that_is_begun_again_keeps_its_files(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    write(folders.begin("job", 1) / CHECKPOINTS / "state", "mine")
    assert (folders.begin("job", 1) / CHECKPOINTS / "state").read_text() == "mine"


def test_outcome_is_kept_until_it_is_forgotten_or_the_job_ends(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    assert folders.read_outcome("job", Outcome[Text]) is None
    folders.begin("job", 1)
    folders.keep_outcome("job", KEPT)
    assert folders.read_outcome("job", Outcome[Text]) == Outcome[Text](report=Text(text="x"))
    assert folders.jobs() == ["job"]
    folders.forget_outcome("job")
    assert folders.read_outcome("job", Outcome[Text]) is None
    folders.end("job")
    assert folders.jobs() == []
    folders.end("job")


def test_other_users_cannot_enter_the_folders(tmp_path: Path) -> None:
    WorkFolders(tmp_path / "work").begin("job", 1)
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700


def test_truncated_outcome_is_ignored(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work")
    folders.begin("job", 1)
    folders.keep_outcome("job", KEPT)
    (kept,) = (tmp_path / "work").iterdir()
    for length in range(len(kept.read_text())):
        kept.write_text(kept.read_text()[:length])
        assert folders.read_outcome("job", Outcome[Text]) is None
        folders.keep_outcome("job", KEPT)


def test_outcome_of_another_version_is_ignored(tmp_path: Path) -> None:
    """A worker that is replaced by one with newer code hands its jobs back, perhaps while it stores a result."""
    folders = WorkFolders(tmp_path / "work")
    folders.begin("job", 1)
    folders.keep_outcome("job", {"folder": "x"})
    assert folders.read_outcome("job", Outcome[Text]) is None
