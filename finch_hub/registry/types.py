"""Column types and SQL functions that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pydantic_core
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

_SQLITE_FORMAT = (
    "%Y-%m-%d %H:%M:%f"  # SQLite's %f is seconds with milliseconds: texts of one length, which sort as times
)

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER counts up by itself on SQLite


class Instant(sa.types.TypeDecorator[datetime]):
    """A moment in UTC: ``timestamptz`` on PostgreSQL, text with milliseconds on SQLite, which has no type for it."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Store text where the database has no type for moments."""
        return dialect.type_descriptor(sa.String(23) if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        """Refuse naive times: they mean another moment on every machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        value = value.astimezone(UTC)
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:23] if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        """Return the moment with its zone, UTC."""
        if value is None:
            return None
        return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)


class Prose(sa.types.TypeDecorator[str]):
    """Text from anywhere, such as the end of a program's output: what PostgreSQL refuses in it becomes U+FFFD."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Replace NUL and halves of surrogate pairs."""
        return None if value is None else storable(value)


def storable(text: str) -> str:
    """Replace NUL and halves of surrogate pairs, which PostgreSQL stores in no text, by U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_json(value: Any) -> str:
    """Return JSON that both databases take: infinities and NaN become null, and texts are made storable."""
    return pydantic_core.to_json(_storable(value), inf_nan_mode="null").decode()


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value) if not value.isprintable() else value
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    return value


class now(FunctionElement[datetime]):  # noqa: N801  (it reads as the SQL function that it is)
    """The database's clock; a worker's own may be an hour off. On PostgreSQL it moves on within a transaction."""

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
    """The database's clock plus the given seconds, a number or an expression (negative: earlier)."""

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
    """Read the clock once for a whole statement, which is what lets PostgreSQL search an index for the moment."""
    return sa.select(moment).scalar_subquery()


class subset(FunctionElement[bool]):  # noqa: N801
    """Whether every text of the first JSON array is in the second one."""

    type = sa.Boolean()
    inherit_cache = True
    name = "subset"


@compiles(subset, "sqlite")
def _subset_sqlite(element: subset, compiler: SQLCompiler, **kw: Any) -> str:
    inner, outer = (compiler.process(clause, **kw) for clause in element.clauses)
    return (  # the parts are compiled SQL, not texts from outside
        f"NOT EXISTS (SELECT 1 FROM json_each({inner}) AS needed"  # noqa: S608
        f" WHERE needed.value NOT IN (SELECT given.value FROM json_each({outer}) AS given))"
    )


@compiles(subset, "postgresql")
def _subset_postgresql(element: subset, compiler: SQLCompiler, **kw: Any) -> str:
    inner, outer = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{inner} <@ {outer}"


def insert_new(session: Session, table: sa.Table, *unique: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that leaves rows alone which have these unique columns already.

    Where another transaction is just inserting such a row, PostgreSQL waits for it; a later statement then sees it.
    """
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing(index_elements=unique)
