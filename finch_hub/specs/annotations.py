"""What users write on adapters and versions: tags such as `gold` or `owner=ana`, descriptions and notes."""

from __future__ import annotations

from dataclasses import dataclass

from finch_hub import errors
from finch_hub.specs.references import check_name

MAX_TAG_VALUE = 256
_MAX_DESCRIPTION = 1_000
_MAX_NOTES = 100_000


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag, whose value may be empty."""

    name: str
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read `name` or `name=value`.

        Raises:
            InvalidReference: the name is not well formed, or the value is too long or has characters that are not
                visible.
        """
        name, _, value = text.partition("=")
        check_name(name, kind="tag")
        if not value.isprintable() or value != value.strip():
            what = f"the value {errors.shorten(value)!r} has characters that are not visible, or spaces at an end"
            raise errors.InvalidReference(what, where=f"tag {name}", fix="use visible characters")
        if len(value) > MAX_TAG_VALUE:
            what = f"the value has {len(value)} characters, more than {MAX_TAG_VALUE}"
            raise errors.InvalidReference(what, where=f"tag {name}", fix="put long texts into the notes")
        return cls(name, value)

    def __str__(self) -> str:
        return f"{self.name}={self.value}" if self.value else self.name


def check_description(text: str) -> str:
    """Return a description of an adapter without spaces at its ends.

    Raises:
        InvalidInput: it is too long.
    """
    return _check_length(text.strip(), _MAX_DESCRIPTION, "description", "put long texts into the notes of a version")


def check_notes(text: str) -> str:
    """Return the notes on a version without spaces at their ends.

    Raises:
        InvalidInput: they are too long.
    """
    return _check_length(text.strip(), _MAX_NOTES, "notes", "keep long texts elsewhere, and name their place")


def _check_length(text: str, limit: int, where: str, fix: str) -> str:
    if len(text) > limit:
        what = f"the text has {len(text):,} characters, more than {limit:,}"
        raise errors.InvalidInput(what, where=where, fix=fix)
    return text
