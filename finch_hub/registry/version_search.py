"""Searches of versions: pages of those that meet a query, in an order.

Neither database knows which filter leaves few versions, or that those of a filter are all at the end of an order. So
each list of versions is counted up to a limit. If one is shorter, its rows are read and sorted. Otherwise the rows are
read in the order that is wanted, until a page is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values, version_loading
from finch_hub.registry.version_filters import Filter, build_filters, entries, numbers, unindexed
from finch_hub.specs.cursors import Key, check_limit, read_cursor, write_cursor
from finch_hub.specs.queries import Sort, parse_query, parse_sort

_FEW = 20_000  # rows that are read and sorted; reading in order may pass over as many for a page
_COLUMNS = {
    "created": ("created_at", "version_id"),
    "updated": ("updated_at", "version_id"),
    "name": ("name", "number"),
}
# The plan of one search does not suit another one, and all indexes are better than reading every row.
_SETTINGS = {"plan_cache_mode": "force_custom_plan", "enable_seqscan": "off", "random_page_cost": "1.1", "jit": "off"}

Statement = sa.Select[Any]


def find(
    session: Session, query: str = "", *, sort: str = "-created", limit: int = 50, after: str | None = None
) -> values.VersionPage:
    """Return a page of the versions that meet a query, and the cursor of the next one.

    Args:
        query: words and filters; see `finch_hub.specs.queries`.
        sort: `created`, `updated`, `name` or a number, with a leading - for the largest first. Versions without the
            number are left out.
        after: cursor of the page before, None for the first page.

    Raises:
        InvalidSpec: the query, the order, the limit or the cursor is invalid; contains all problems of the query.
        NotFound: a base, data set or parent that the query names does not exist.
    """
    terms = parse_query(query)
    order = parse_sort(sort)
    check_limit(limit)
    scope = f"versions\n{query}\n{order}"
    key = _read_key(scope, after, order)
    if not _is_sqlite(session):
        settings = (sa.func.set_config(name, value, True) for name, value in _SETTINGS.items())
        session.execute(sa.select(*settings))
    filters = build_filters(session, terms)
    statement, keys = _build(session, filters, order)
    if key is not None:
        here = sa.tuple_(*keys)
        last = sa.tuple_(*(sa.literal(part, column.type) for part, column in zip(key, keys, strict=True)))
        statement = statement.where(here < last if order.descending else here > last)
    statement = statement.order_by(*(column.desc() if order.descending else column.asc() for column in keys))
    rows = session.execute(statement.limit(limit + 1)).all()
    versions = version_loading.load(session, [row.version_id for row in rows[:limit]])
    more = write_cursor(scope, _to_key(rows[limit - 1])) if len(rows) > limit else None
    return values.VersionPage(versions=versions, next=more)


def _build(
    session: Session, filters: Sequence[Filter], order: Sort
) -> tuple[Statement, tuple[sa.ColumnElement[Any], ...]]:
    """Return the statement that finds the versions, and what it is to be sorted by."""
    counts = _count_all(session, filters, order)
    few = min(counts, key=counts.__getitem__, default=None)
    if few is not None and counts[few] < _FEW:
        return _read_few(session, filters, filters[few], order)
    return _read_in_order(session, filters, counts, order)


def _count_all(session: Session, filters: Sequence[Filter], order: Sort) -> dict[int, int]:
    """Return the number of versions of each filter that lists them, up to a limit."""
    listed = {place: item for place, item in enumerate(filters) if item.ids is not None}
    if len(listed) == 1 and order.field == "created" and filters[next(iter(listed))].column is not None:
        return {next(iter(listed)): _FEW}  # its index is in the order that is wanted
    return {place: _count(session, item) for place, item in listed.items()}


def _count(session: Session, item: Filter) -> int:
    assert item.ids is not None  # noqa: S101 - the caller looks
    if item.is_text and not _is_sqlite(session):
        return _estimate(session, item.ids)
    found = item.ids.limit(_FEW).subquery()
    return session.scalars(sa.select(sa.func.count()).select_from(found)).one()


def _estimate(session: Session, query: sa.Select[Any] | sa.CompoundSelect[Any]) -> int:
    """Return what PostgreSQL expects, which knows how frequent words are. To count them takes as long as the search."""
    connection = session.connection()
    compiled = query.compile(dialect=connection.dialect)
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params).scalar_one()
    return int(plan[0]["Plan"]["Plan Rows"])


def _read_few(
    session: Session, filters: Sequence[Filter], few: Filter, order: Sort
) -> tuple[Statement, tuple[sa.ColumnElement[Any], ...]]:
    """Read the versions of one filter, of which there are few, and sort them."""
    source: sa.FromClause = entries
    conditions = _list_conditions(session, filters, {id(few)})
    if few.seek is None:
        assert few.ids is not None  # noqa: S101 - the caller looks
        ids = few.ids.subquery("few")
        source = ids.join(entries, entries.c.version_id == ids.c.version_id)
        conditions = _list_conditions(session, [item for item in filters if item is not few], set())
    if order.field not in _COLUMNS:
        source = source.join(numbers, numbers.c.version_id == entries.c.version_id)
        conditions.append(numbers.c.name == order.field)
    keys = tuple(unindexed(key) for key in _list_keys(order))
    return sa.select(entries.c.version_id, *keys).select_from(source).where(*conditions), keys


def _read_in_order(
    session: Session, filters: Sequence[Filter], counts: dict[int, int], order: Sort
) -> tuple[Statement, tuple[sa.ColumnElement[Any], ...]]:
    """Read the versions in the wanted order, from an index, and pass over those that a filter leaves out."""
    keys = _list_keys(order)
    if order.field not in _COLUMNS:
        of_number = [item for item in filters if item.number is not None and item.number[0] == order.field]
        conditions = _list_conditions(session, [item for item in filters if item not in of_number], set())
        conditions += [numbers.c.name == order.field, *(item.number[1] for item in of_number if item.number)]
        source = numbers.join(entries, entries.c.version_id == numbers.c.version_id)
        return sa.select(entries.c.version_id, *keys).select_from(source).where(*conditions), keys
    sought = {id(item) for item in filters if item.order == order.field}
    of_column = [place for place in counts if filters[place].column is not None]
    if of_column and order.field == "created":
        sought.add(id(filters[min(of_column, key=counts.__getitem__)]))
    return sa.select(entries.c.version_id, *keys).where(*_list_conditions(session, filters, sought)), keys


def _list_conditions(session: Session, filters: Sequence[Filter], sought: set[int]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of filters. SQLite, which does not know how many rows they leave, is told what to seek."""
    is_free = not _is_sqlite(session)
    return [
        item.seek if item.seek is not None and (is_free or id(item) in sought) else item.condition for item in filters
    ]


def _list_keys(order: Sort) -> tuple[sa.ColumnElement[Any], ...]:
    if order.field not in _COLUMNS:
        return numbers.c.value, numbers.c.version_id
    return tuple(entries.c[name] for name in _COLUMNS[order.field])


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _read_key(scope: str, after: str | None, order: Sort) -> tuple[Any, ...] | None:
    if after is None:
        return None
    first, second = read_cursor(scope, after, (str if order.field in _COLUMNS else float, int))
    if order.field in ("created", "updated"):
        try:
            return datetime.fromisoformat(str(first)).astimezone(UTC), second
        except (ValueError, OverflowError):
            raise errors.InvalidSpec("is not a cursor of this list", where="after") from None
    return first, second


def _to_key(row: sa.Row[Any]) -> Key:
    _, first, second = tuple(row)
    return (first.isoformat() if isinstance(first, datetime) else first), second
