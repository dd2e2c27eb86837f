"""How rows of a data set are read."""

from __future__ import annotations

from typing import get_args

import pytest

from finch_hub import errors
from finch_hub.cli import options
from finch_hub.specs.reading import FileFormat, ReadingConfig


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [(";", ";"), ("tab", "\t"), ("\\t", "\t"), ("\t", "\t"), ("comma", ","), ("semicolon", ";"), ("pipe", "|")],
)
def test_delimiter_has_names(name: str, delimiter: str) -> None:
    assert ReadingConfig(delimiter=name).delimiter == delimiter


@pytest.mark.parametrize(
    ("fields", "needle"),
    [
        ({"delimiter": ";;"}, "not one character"),
        ({"delimiter": '"'}, "not one character"),
        ({"delimiter": ""}, "not one character"),
        ({"encoding": "utf8mb4"}, "not a known encoding"),
        ({"encoding": "rot13"}, "not a known encoding"),
        ({"encoding": "hex"}, "not a known encoding"),
        ({"max_bad_rows": 5}, "max_bad_rows"),
        ({"prompt_column": "a", "completion_column": "a"}, "prompt_column and completion_column are both 'a'"),
        ({"prompt_column": "a", "ignore_columns": ["a"]}, "'a' is named as a column to read and in ignore_columns"),
        ({"max_bad_rows": -0.1}, "max_bad_rows"),
        ({"file_format": "xlsx"}, "file_format"),
        ({"prompt_column": ""}, "prompt_column"),
        ({"messages_column": "a", "prompt_column": "b"}, "messages_column cannot be combined"),
    ],
)
def test_value_that_cannot_work_is_refused(fields: dict[str, object], needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=needle):
        ReadingConfig.of(fields)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-16", "latin-1", "cp1252", "gb18030", "shift_jis"])
def test_encodings_of_python_are_known(encoding: str) -> None:
    assert ReadingConfig(encoding=encoding).encoding == encoding


def test_columns_are_named_by_the_field_that_they_fill() -> None:
    config = ReadingConfig(prompt_column="q", completion_column="a")
    assert config.columns == {"prompt": "q", "completion": "a"}
    assert ReadingConfig().columns == {}


def test_command_line_offers_the_formats_of_files() -> None:
    assert get_args(FileFormat) == options.FILE_FORMATS
