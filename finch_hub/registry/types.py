"""Column types and SQL functions that work alike on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Literal

import pydantic_core
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from finch_hub import errors
from finch_hub.specs.value import MAX_NESTING

# SQLite's %f is seconds with milliseconds. All texts have one length, so that they sort by time.
_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f"

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by itself only for INTEGER

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
"""What a damaged time is read as, where a time is required."""

Columns = dict[str, Any]
"""Values or SQL expressions, by the name of a column or a parameter."""


class Instant(sa.types.TypeDecorator[datetime]):
    """Time in UTC: ``timestamptz`` on PostgreSQL, text with milliseconds on SQLite, which has no type for it."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type of the column, text on SQLite."""
        return dialect.type_descriptor(sa.String(23) if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        """Refuse naive times, which mean a different time on each machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        value = value.astimezone(UTC)
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:23] if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        """Return the time with its zone, UTC. A damaged value stays as it is, for its reader to refuse."""
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except ValueError:
            return value  # type: ignore[return-value]


class Prose(sa.types.TypeDecorator[str]):
    """Text from any source, such as a program's output, made storable on PostgreSQL."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Make the text storable."""
        return None if value is None else make_storable(value)


def make_storable(text: str) -> str:
    """Replace NUL and halves of surrogate pairs, which PostgreSQL refuses, by U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_json(value: Any) -> str:
    """Return JSON that both databases accept, and `from_json` reads. Infinities and NaN become null.

    Raises:
        InvalidInput: the value is nested too deeply.
    """
    try:
        return _write_json(value)
    except _NestingError as error:
        raise errors.InvalidInput(str(error), fix="nest it less", subject="document") from None


def _write_json(value: Any) -> str:
    return pydantic_core.to_json(_make_json_storable(value), inf_nan_mode="null").decode()


def from_json(text: Any) -> Any:
    """Return stored JSON. A damaged text stays as it is, for its reader to refuse: it must not hide other rows.

    What another program wrote may have escapes of characters that this hub never stores, and cannot print as JSON.
    """
    if not isinstance(text, str):  # SQLite may have bytes in any column
        return text
    try:
        value = _parse_json(text)
        return _make_json_storable(value) if "\\u" in text else value
    except (ValueError, RecursionError):  # it may be nested too deeply to be shown
        return text


def _parse_json(text: str) -> Any:
    try:
        return pydantic_core.from_json(text)  # several times as fast, which counts for a page of versions
    except ValueError:  # it refuses halves of surrogate pairs
        return pydantic_core.from_json(_write_json(json.loads(text)))


def read_document(value: Any) -> dict[str, Any]:
    """Return a stored JSON object. Of a damaged one, return a note that says so: it must not hide other rows."""
    return value if isinstance(value, dict) else {"unreadable": str(value)[:200]}


class _NestingError(ValueError):
    """A document is nested too deeply for `from_json`, where a writer would take 54 levels more."""


def _make_json_storable(value: Any, levels: int = MAX_NESTING) -> Any:
    if isinstance(value, str):
        return make_storable(value) if not value.isprintable() else value
    if isinstance(value, (dict, list, tuple)) and levels == 0:
        raise _NestingError(f"is nested more than {MAX_NESTING} deep")
    if isinstance(value, dict):
        return {_make_json_storable(key): _make_json_storable(item, levels - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_make_json_storable(item, levels - 1) for item in value]
    return value


class now(FunctionElement[datetime]):  # noqa: N801  (named like an SQL function)
    """The database's clock, because workers' clocks differ. On PostgreSQL it advances within a transaction."""

    type = Instant()
    inherit_cache = True
    name = "now"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return f"strftime('{_SQLITE_FORMAT}', 'now')"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "clock_timestamp()"


class later(FunctionElement[datetime]):  # noqa: N801
    """The database's clock plus a number of seconds, which may be negative."""

    type = Instant()
    inherit_cache = True
    name = "later"

    def __init__(self, seconds: float | sa.ColumnElement[float]) -> None:
        super().__init__(sa.literal(seconds, sa.Float()) if isinstance(seconds, (int, float)) else seconds)


@compiles(later, "sqlite")
def _later_sqlite(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    return f"strftime('{_SQLITE_FORMAT}', 'now', printf('%+.3f seconds', {compiler.process(element.clauses, **kw)}))"


@compiles(later, "postgresql")
def _later_postgresql(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    return f"clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)})"


def once(moment: sa.ColumnElement[datetime]) -> sa.ScalarSelect[datetime]:
    """Read the clock once for a statement, so that PostgreSQL can search an index for the time."""
    return sa.select(moment).scalar_subquery()


LONGEST_WAIT_SECONDS = 3600.0
"""Seconds that no wait for another try lasts, in any version: the longest one takes ten minutes."""


def is_ahead(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that the end of a wait is still to come.

    One that is further off than any wait comes from a clock that jumped, or from someone's edit, and does not count.
    """
    return sa.and_(moment > now(), moment <= later(LONGEST_WAIT_SECONDS))


def has_come(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return the opposite condition, for times that are not null. An index serves the first part of it."""
    return sa.or_(moment <= once(now()), moment > once(later(LONGEST_WAIT_SECONDS)))


class subset(FunctionElement[bool]):  # noqa: N801
    """Whether the second JSON array contains every text of the first. A damaged one counts as empty."""

    type = sa.Boolean()
    inherit_cache = True
    name = "subset"


@compiles(subset, "sqlite")
def _subset_sqlite(element: subset, compiler: SQLCompiler, **kw: Any) -> str:
    parts = (compiler.process(clause, **kw) for clause in element.clauses)
    inner, outer = (f"json_each(iif(json_valid({part}), {part}, '[]'))" for part in parts)
    # The parts are compiled SQL, not user input.
    return (
        f"NOT EXISTS (SELECT 1 FROM {inner} AS needed"  # noqa: S608
        f" WHERE needed.value NOT IN (SELECT given.value FROM {outer} AS given))"
    )


@compiles(subset, "postgresql")
def _subset_postgresql(element: subset, compiler: SQLCompiler, **kw: Any) -> str:
    inner, outer = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{inner} <@ {outer}"


class is_stored_as(FunctionElement[bool]):  # noqa: N801
    """Whether a column has a value of its own type. SQLite takes others too, such as bytes, which equal no text."""

    type = sa.Boolean()
    inherit_cache = True
    name = "is_stored_as"

    def __init__(self, kind: Literal["integer", "text"], column: sa.ColumnElement[Any]) -> None:
        super().__init__(column, sa.literal_column(f"'{kind}'"))


@compiles(is_stored_as, "sqlite")
def _is_stored_as_sqlite(element: is_stored_as, compiler: SQLCompiler, **kw: Any) -> str:
    column, kind = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"typeof({column}) = {kind}"


@compiles(is_stored_as, "postgresql")
def _is_stored_as_postgresql(element: is_stored_as, compiler: SQLCompiler, **kw: Any) -> str:
    return "true"


class json_shape(FunctionElement[str]):  # noqa: N801
    """Whether a JSON column has an "object", an "array" or another value. A text that is not JSON is "damaged"."""

    type = sa.String()
    inherit_cache = True
    name = "json_shape"


@compiles(json_shape, "sqlite")
def _json_shape_sqlite(element: json_shape, compiler: SQLCompiler, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    return f"iif(json_valid({column}), json_type({column}), 'damaged')"


@compiles(json_shape, "postgresql")
def _json_shape_postgresql(element: json_shape, compiler: SQLCompiler, **kw: Any) -> str:
    return f"jsonb_typeof({compiler.process(element.clauses, **kw)})"


_Texts = sa.JSON().with_variant(postgresql.ARRAY(sa.Text()), "postgresql")
_Numbers = sa.JSON().with_variant(postgresql.ARRAY(sa.BigInteger()), "postgresql")


class one_of(FunctionElement[bool]):  # noqa: N801
    """Whether a column has one of any number of values. They are one parameter, as PostgreSQL takes 65,535.

    Args:
        values: texts or whole numbers, as the column has; a text is the name of a parameter that is given later.
    """

    type = sa.Boolean()
    inherit_cache = True
    name = "one_of"

    def __init__(self, column: sa.ColumnElement[Any] | orm.InstrumentedAttribute[Any], values: Collection[Any]) -> None:
        kind = _Numbers if isinstance(column.type, sa.Integer) else _Texts
        given = sa.bindparam(values, type_=kind) if isinstance(values, str) else sa.literal(list(values), kind)
        super().__init__(column, given)

    def self_group(self, against: OperatorType | None = None) -> one_of:
        """Return the condition itself. Compared with 1, as SQLite's truth values are, it would use no index."""
        return self


@compiles(one_of, "sqlite")
def _one_of_sqlite(element: one_of, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled SQL, not user input


@compiles(one_of, "postgresql")
def _one_of_postgresql(element: one_of, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY ({values})"


def insert_new(session: Session, table: sa.Table, *unique: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that skips rows whose unique columns are in the table already.

    If another transaction is inserting such a row, PostgreSQL waits for it. A later statement then sees that row.
    """
    return build_insert_new(session.get_bind().dialect.name, table, *unique)


def build_insert_new(dialect: str, table: sa.Table, *unique: str) -> sqlite.Insert | postgresql.Insert:
    """Return the same INSERT for a dialect, from which a statement can be built once."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing(index_elements=unique)
