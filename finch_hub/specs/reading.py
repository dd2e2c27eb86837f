"""How rows of a data set are read."""

from __future__ import annotations

import codecs
from typing import Any, Literal, TypedDict

import pydantic

from finch_hub import errors
from finch_hub.specs.options import name_option
from finch_hub.specs.value import Config

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
# Python has them for domains and for its source, and readers of files fail on them.
_NOT_OF_FILES = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"})
_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}

LIMITS = ("max_bad_rows", "strict")
"""Fields that `TrainingConfig` has, too. In a training, the same values hold for reading and tokenizing."""


class DataWarning(errors.FinchWarning):
    """A row was left out, a column was not used, or a file was read in a way that users should know."""


class ReadingConfig(Config):
    """How rows become examples. Without a value, each part is recognized.

    Attributes:
        format: row format; None recognizes the format of each row by its columns.
        prompt_column: column that is read as `prompt`.
        completion_column: column that is read as `completion`.
        messages_column: column that is read as `messages`.
        ignore_columns: columns that are left out on purpose, as if the rows did not have them. The report lists them.
        encoding: encoding of text files, such as "cp1252".
        delimiter: character between the columns of CSV files.
        file_format: format of the files, whatever their names.
        max_bad_rows: largest share of the rows that may be left out because they cannot be used, 0 to 1.
        strict: refuse data if a row would be left out or a column would not be used.
    """

    format: str | None = None
    prompt_column: str | None = pydantic.Field(default=None, min_length=1)
    completion_column: str | None = pydantic.Field(default=None, min_length=1)
    messages_column: str | None = pydantic.Field(default=None, min_length=1)
    ignore_columns: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    file_format: FileFormat | None = None
    max_bad_rows: float = pydantic.Field(default=0.05, ge=0, le=1)
    strict: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """Names of columns, by the field that they are read as."""
        named = {"prompt": self.prompt_column, "completion": self.completion_column, "messages": self.messages_column}
        return {field: column for field, column in named.items() if column is not None}

    @pydantic.field_validator("ignore_columns", mode="before")
    @classmethod
    def _is_list_of_names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @pydantic.field_validator("encoding")
    @classmethod
    def _is_text_encoding(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                codec = codecs.lookup(value)
                b"a".decode(value)
            except UnicodeError:
                pass  # one byte is not a whole character in every encoding
            except (LookupError, ValueError):
                raise ValueError(f"{value!r} is not a known encoding; use utf-8, utf-16 or cp1252") from None
            if codec.name.replace("_", "-") in _NOT_OF_FILES:
                raise ValueError(f"{value!r} is not an encoding of files; use utf-8, utf-16 or cp1252")
        return value

    @pydantic.field_validator("delimiter", mode="before")
    @classmethod
    def _is_one_character(cls, value: Any) -> Any:
        value = _DELIMITERS.get(value, value) if isinstance(value, str) else value
        if isinstance(value, str) and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f"{value!r} is not one character; use , ; | or tab")
        return value

    @pydantic.model_validator(mode="after")
    def _has_one_kind_of_columns(self) -> ReadingConfig:
        if self.messages_column and (self.prompt_column or self.completion_column):
            messages, prompt, completion = map(name_option, ("messages_column", "prompt_column", "completion_column"))
            raise ValueError(f"{messages} cannot be combined with {prompt} or {completion}")
        if self.prompt_column is not None and self.prompt_column == self.completion_column:
            prompt, completion = name_option("prompt_column"), name_option("completion_column")
            raise ValueError(f"{prompt} and {completion} are both {self.prompt_column!r}; name two columns")
        if both := sorted(set(self.columns.values()) & set(self.ignore_columns)):
            ignored = name_option("ignore_columns")
            raise ValueError(f"{both[0]!r} is named as a column to read and in {ignored}; keep one of the two")
        return self


class ReadingOptions(TypedDict, total=False):
    """Fields of `ReadingConfig` as keyword arguments."""

    format: str | None
    prompt_column: str | None
    completion_column: str | None
    messages_column: str | None
    ignore_columns: tuple[str, ...]
    encoding: str | None
    delimiter: str | None
    file_format: FileFormat | None
    max_bad_rows: float
    strict: bool
