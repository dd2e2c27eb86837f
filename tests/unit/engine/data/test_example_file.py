from __future__ import annotations

from pathlib import Path

import pytest
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.data import data_files, reading
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.specs.examples import Example

ROWS = (*lessons(5), Example(text="Zwei Finken.\u2028Drei\nZeilen 🐦"), Example.of_pair("a\x85b", "c\x1c\rd"))


def test_a_temporary_file_gives_what_was_added() -> None:
    with ExampleFile() as file:
        assert not file
        file.add(ROWS[0])
        assert tuple(file) == ROWS[:1]
        for row in ROWS[1:]:
            file.add(row)
        assert tuple(file) == ROWS
        assert [file[place] for place in range(len(file))] == list(ROWS)
        assert (file[-1], file[1:3]) == (ROWS[-1], ROWS[1:3])
        path = file.path
        assert path.read_bytes() == reading.dump_examples(ROWS)
        assert file.size == path.stat().st_size
        with pytest.raises(IndexError):
            file[len(ROWS)]
    assert not path.exists()


def test_a_file_of_examples_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(reading.dump_examples(ROWS))
    file = ExampleFile(path)
    assert len(file) == len(ROWS)
    assert tuple(file) == tuple(file) == ROWS  # it can be read again
    assert file[5] == ROWS[5]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExampleFile() as file, monkeypatch.context() as patch:
        full = Path("/dev/full").open("wb")  # noqa: SIM115 - it cannot be closed without an error
        patch.setattr(file, "_written", full)
        file.add(ROWS[0])
        with pytest.raises(errors.Unavailable, match="No space left"):
            _ = file.path
        data_files.close_temporary(full)
