"""The language of searches: words and filters, such as `contract -draft base:llama created>2026-01 metric.loss<2`.

Everything that searches versions parses its text here: Python, the command line and programs that build on them.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from finch_hub import errors
from finch_hub.errors import Problem
from finch_hub.specs import folding
from finch_hub.specs.references import AdapterReference

MAX_LENGTH = 2000
MAX_TERMS = 40
_MAX_NUMBER_NAME = 160
_MIN_BEGINNING = 2  # letters, since one begins too many words

Operator = Literal["=", "<", "<=", ">", ">="]
_OPERATORS: dict[str, Operator] = {":": "=", "=": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

_TEXT_FIELDS = ("name", "base", "preset", "kind", "state", "tag", "parent", "data", "owner")
_TIME_FIELDS = ("created", "updated")
_NUMBER_GROUPS = ("metric", "lora", "training")
_KNOWN = (*_TEXT_FIELDS, *_TIME_FIELDS, *(f"{group}.NAME" for group in _NUMBER_GROUPS))
_CHOICES = {
    "state": ("ready", "quarantined", "below_retention", "unchecked"),
    "kind": ("train", "compose", "import", "quantize"),
}
_SORTS = ("created", "updated", "name")
_EARLIER_NAMES = {"lora.r": "lora.rank", "lora.lora_alpha": "lora.alpha"}  # PEFT's, which users know
# Metrics of jobs, which are known before there are versions with them. Plugins add others.
METRICS = frozenset(
    {f"{name}_{when}" for name in ("loss", "accuracy", "perplexity") for when in ("before", "after")}
    | {"rank", "bytes", "steps", "epochs", "tokens", "seconds", "train_loss", "trainable_parameters"}
    | {"mean_retention", "worst_retention", "relative_error", "bytes_before", "loss_unquantized"}
)
_FILTER = re.compile(r"(?P<field>[A-Za-z_][\w.-]*)(?P<operator><=|>=|[<>=:])", re.ASCII)
_TIME = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d))?Z?)?)?)?", re.ASCII)


class Words(NamedTuple):
    """Words that stand next to each other in the texts of a version, without what stands between words.

    Attributes:
        begins: whether the last word is only the beginning of one.
    """

    text: str
    begins: bool = False
    negated: bool = False


class TextFilter(NamedTuple):
    """A field with a text. `value` is the part behind `=` of a tag, None for any value."""

    field: str
    text: str
    value: str | None = None
    negated: bool = False


class TimeFilter(NamedTuple):
    """A time at or after `begin` and before `end`. None is no limit."""

    field: str
    begin: datetime | None
    end: datetime | None
    negated: bool = False


class NumberFilter(NamedTuple):
    """A number of a version, such as `metric.loss_after`, that is compared with another one."""

    name: str
    operator: Operator
    number: float
    negated: bool = False


Term = Words | TextFilter | TimeFilter | NumberFilter


class Sort(NamedTuple):
    """The order of the versions found: by `created`, `updated`, `name`, or a number such as `metric.loss_after`."""

    field: str = "created"
    descending: bool = True

    def __str__(self) -> str:
        return f"{'-' if self.descending else ''}{self.field}"


class _Piece(NamedTuple):
    """A term as it was written: from its first column, with or without a filter in front."""

    column: int
    negated: bool
    field: str
    operator: str
    text: str
    quoted: bool


def parse_query(text: str) -> tuple[Term, ...]:
    """Return the terms of a query, all of which a version must meet. A text without terms finds all versions.

    Raises:
        InvalidSpec: with everything that is wrong, each with its column.
    """
    if len(text) > MAX_LENGTH:
        fix = "leave out some of it"
        raise errors.InvalidSpec(f"has {len(text):,} characters, of {MAX_LENGTH:,} at most", subject="query", fix=fix)
    problems: list[Problem] = []
    pieces = list(_split(text, problems))
    terms = [term for piece in pieces if (term := _parse_piece(piece, problems)) is not None]
    if len(pieces) > MAX_TERMS:
        what = f"has {len(pieces)} terms, of {MAX_TERMS} at most"
        problems.append(Problem(what=what, where=f"column {pieces[MAX_TERMS].column}", fix="leave out some of them"))
    if problems:
        raise errors.InvalidSpec(problems, subject="query")
    return tuple(terms)


def parse_sort(text: str) -> Sort:
    """Return the order that `created`, `-created`, `name`, `updated` or `metric.NAME` stand for.

    Raises:
        InvalidSpec: there is no such order.
    """
    field = text.removeprefix("-")
    if field in _SORTS:
        return Sort(field, text.startswith("-"))
    name = _find_number(field)
    if name is not None:
        return Sort(name, text.startswith("-"))
    what = f"{errors.shorten(text)!r} is not an order"
    if field in METRICS:
        raise errors.InvalidSpec(what, where="sort", fix=f"write {text.removesuffix(field)}metric.{field}")
    fix = f"use {', '.join(_SORTS)} or metric.NAME, with - in front for the largest first"
    raise errors.InvalidSpec(what, where="sort", fix=fix)


def _read_words(text: str) -> str:
    """Return a text without what stands between words and what cannot be printed."""
    plain = "".join(
        character if character.isprintable() or unicodedata.category(character) == "Cf" else " " for character in text
    )
    return " ".join(folding.split_words(plain))


def _split(text: str, problems: list[Problem]) -> Iterable[_Piece]:
    """Yield the pieces between spaces. Quotes hold spaces together, at the beginning of a piece or of a value."""
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        column = place + 1
        negated = text[place] == "-" and place + 1 < len(text) and not text[place + 1].isspace()
        place += negated
        field = operator = ""
        if match := _FILTER.match(text, place):
            field, operator, place = match["field"], match["operator"], match.end()
        quoted = place < len(text) and text[place] == '"'
        if quoted:
            end = text.find('"', place + 1)
            if end < 0:
                problems.append(Problem(what='a " is not closed', where=f"column {place + 1}", fix='add a " behind'))
                return
            value, place = text[place + 1 : end], end + 1
            if place < len(text) and text[place] == "*":
                value, place = f"{value}*", place + 1
        else:
            begin = place
            while place < len(text) and not text[place].isspace():
                place += 1
            value = text[begin:place]
        yield _Piece(column, negated, field, operator, value, quoted)


def _parse_piece(piece: _Piece, problems: list[Problem]) -> Term | None:
    try:
        if not piece.field:
            return _parse_words(piece)
        if piece.field in _TEXT_FIELDS:
            return _parse_text(piece)
        if piece.field in _TIME_FIELDS:
            return _parse_time(piece)
        name = _find_number(piece.field)
        if name is not None:
            return _parse_number(piece, name)
        raise _refuse_field(piece)
    except _InvalidTermError as error:
        where = f"column {piece.column} ({errors.shorten(_show(piece))})"
        problems.append(Problem(what=error.what, where=where, fix=error.fix))
        return None


class _InvalidTermError(Exception):
    """A term is invalid. It becomes a problem of the query."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def _show(piece: _Piece) -> str:
    return f"{'-' if piece.negated else ''}{piece.field}{piece.operator}{piece.text}"


def _refuse_field(piece: _Piece) -> _InvalidTermError:
    group = piece.field.partition(".")[0]
    if group in _NUMBER_GROUPS:
        return _InvalidTermError("names no number", f"write {group}.NAME, such as metric.loss_after<2.1")
    if piece.field in METRICS:
        what = f"there is no filter {errors.shorten(piece.field)!r}"
        return _InvalidTermError(what, f"write metric.{piece.field}{piece.operator}{piece.text}")
    near = errors.near(piece.field, [*_TEXT_FIELDS, *_TIME_FIELDS])
    if not near and (groups := difflib.get_close_matches(group, _NUMBER_GROUPS, n=1, cutoff=0.7)):
        near = (f"{groups[0]}.NAME",)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_KNOWN)}."
    return _InvalidTermError(f"there is no filter {errors.shorten(piece.field)!r}", f'{hint} Quote a text: "…"')


def _parse_words(piece: _Piece) -> Words:
    begins = piece.text.endswith("*")
    text = _read_words(piece.text)
    if not folding.has_word(text):
        raise _InvalidTermError("has no letter or digit", "write a word, or leave it out")
    if begins and len(unicodedata.normalize("NFC", text.split()[-1])) < _MIN_BEGINNING:
        what = f"has fewer than {_MIN_BEGINNING} letters before *"
        raise _InvalidTermError(what, "write more of the word")
    return Words(text, begins, piece.negated)


def _parse_text(piece: _Piece) -> TextFilter:
    if piece.operator not in (":", "="):
        raise _InvalidTermError(f"{piece.field} is a text, which has no order", f"write {piece.field}:TEXT")
    text = piece.text
    value: str | None = None
    if piece.field == "tag" and "=" in text:
        text, _, value = text.partition("=")
    if not text:
        raise _InvalidTermError("has no value", f"write {piece.field}:TEXT")
    choices = _CHOICES.get(piece.field)
    if choices is not None and text not in choices:
        raise _InvalidTermError(f"{text!r} is not a {piece.field}", f"known: {', '.join(choices)}")
    if "\0" in text or not text.isprintable() or not (value or "").replace("\t", " ").isprintable():
        raise _InvalidTermError("has a character that cannot be printed", "remove it")
    if piece.field == "parent":
        try:
            AdapterReference.parse(text)
        except errors.InvalidReference as error:
            problem = error.problems[0]
            raise _InvalidTermError(problem.what, problem.fix) from None
    return TextFilter(piece.field, text, value, piece.negated)


def _parse_number(piece: _Piece, name: str) -> NumberFilter:
    try:
        number = float(piece.text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _InvalidTermError(f"{piece.text!r} is not a number", f"write a number, such as {piece.field}<2.1")
    return NumberFilter(name, _OPERATORS[piece.operator], number, piece.negated)


def _find_number(field: str) -> str | None:
    """Return the name of a number in the index, None if the field has another form."""
    group, _, name = field.partition(".")
    if group not in _NUMBER_GROUPS or not name or len(field) > _MAX_NUMBER_NAME or not field.isprintable():
        return None
    return _EARLIER_NAMES.get(field, field)


def _parse_time(piece: _Piece) -> TimeFilter:
    begin, end = _read_time(piece)
    limits: dict[str, tuple[datetime | None, datetime | None]] = {
        ":": (begin, end),
        "=": (begin, end),
        "<": (None, begin),
        "<=": (None, end),
        ">": (end, None),
        ">=": (begin, None),
    }
    return TimeFilter(piece.field, *limits[piece.operator], piece.negated)


def _read_time(piece: _Piece) -> tuple[datetime, datetime]:
    """Return the beginning and end of a year, month, day, minute or second in UTC."""
    match = _TIME.fullmatch(piece.text)
    try:
        if match is None:
            raise ValueError
        parts = [int(part) for part in match.groups() if part is not None]
        year, month, day, hour, minute, second = [*parts, *(0, 1, 1, 0, 0, 0)[len(parts) :]]
        begin = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if len(parts) == 1:
            return begin, begin.replace(year=year + 1)
        if len(parts) == 2:
            return begin, begin.replace(year=year + month // 12, month=month % 12 + 1)
        span = {3: timedelta(days=1), 5: timedelta(minutes=1)}.get(len(parts), timedelta(seconds=1))
        return begin, begin + span
    except (ValueError, OverflowError):
        fix = f"write a year, month, day or minute in UTC, such as {piece.field}>2026-01-31"
        raise _InvalidTermError(f"{piece.text!r} is not a time", fix) from None
