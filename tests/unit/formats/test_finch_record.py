from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub.formats.finch_record import RECORD, read_name, read_record, sign_record, write_record


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, "GGUF adapter", {"adapter": {"name": "legal"}})
    assert read_record(tmp_path) == {"made": "GGUF adapter", "adapter": {"name": "legal"}}


def test_signed_record_names_the_job(tmp_path: Path) -> None:
    sign_record(tmp_path, "a")
    assert read_record(tmp_path) == {}, "a folder without a record gets none"
    write_record(tmp_path, "merge", {"base": "tiny"})
    sign_record(tmp_path, "a")
    assert read_record(tmp_path) == {"made": "merge", "base": "tiny", "job": "a"}


@pytest.mark.parametrize("text", [None, "", "[1]", "{"])
def test_record_that_cannot_be_read_is_empty(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / RECORD).write_text(text)
    assert read_record(tmp_path) == {}


def test_name_is_the_records_or_else_the_folders(tmp_path: Path) -> None:
    assert read_name(tmp_path) == tmp_path.name
    (tmp_path / RECORD).write_text('{"name": "legal"}')
    assert read_name(tmp_path) == "legal"
