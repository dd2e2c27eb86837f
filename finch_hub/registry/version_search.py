"""Searches of versions: pages of those that meet a query, in an order.

Neither database knows which filter leaves few versions, or that those of a filter are all at the end of an order. So
each list of versions is counted up to a limit. If one is shorter, its rows are read and sorted. Otherwise the rows are
read in the order that is wanted, until a page is full.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values, version_loading
from finch_hub.registry.version_filters import (
    Filter,
    Ids,
    build_filters,
    entries,
    numbers,
    require_number,
    texts,
    unindexed,
)
from finch_hub.specs.cursors import Key, check_limit, read_cursor, read_moment, write_cursor
from finch_hub.specs.queries import Sort, parse_query, parse_sort

# Versions that are read and sorted. Of more, a page is full sooner if they are read in order. A test for words takes
# longer than one for anything else.
_FEW, _FEW_TEXTS = 5000, 50_000
_SAMPLE = 20_000
_NEIGHBORS = 4  # times as many versions of one name are read in the same time, since they are next to each other
_COLUMNS = {
    "created": ("created_at", "version_id"),
    "updated": ("updated_at", "version_id"),
    "name": ("name", "number"),
}
# The plan of one search does not suit another one, and all indexes are better than reading every row.
_SETTINGS = {"plan_cache_mode": "force_custom_plan", "enable_seqscan": "off", "random_page_cost": "1.1", "jit": "off"}
# Of conditions that no index serves, PostgreSQL expects that hardly any row meets them. It would read and sort all rows
# in place of a page of those that are in order.
_IN_ORDER = {"enable_sort": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_CHANGED = (*_SETTINGS, *_IN_ORDER)
_GET, _SET, _RESET = "current_setting('{}')", "set_config('{}', '{}', true)", "set_config('{0}', :{0}, true)"
# One statement, since each is a round trip. A row is computed from the left to the right.
_CHANGE = sa.text(
    f"SELECT {', '.join(map(_GET.format, _CHANGED))},"
    f" {' || '.join(_SET.format(*setting) for setting in _SETTINGS.items())}"
)
_READ_ORDERED = sa.text(f"SELECT {' || '.join(_SET.format(*setting) for setting in _IN_ORDER.items())}")
_RESTORE = sa.text(f"SELECT {' || '.join(map(_RESET.format, _CHANGED))}")

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
        NotFound: a base, data set, parent or number that the query or the order names does not exist.
    """
    terms = parse_query(query)
    order = parse_sort(sort)
    check_limit(limit)
    scope = f"versions\n{query}\n{order}"
    key = _read_key(scope, after, order)
    with _plan_for_this(session):
        if order.field not in _COLUMNS:
            require_number(session, order.field)
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
    listed = [(item, item.ids) for item in filters if item.ids is not None]
    if len(listed) == 1 and _is_in_order(listed[0][0], order):
        return _read_in_order(session, filters, listed[0][0], order)
    sizes = [_measure(session, item, ids) for item, ids in listed]
    least = min(zip(sizes, range(len(listed)), strict=True), default=None)
    if least is not None and least[0] < 1 and not _is_in_order(listed[least[1]][0], order):
        return _read_few(filters, *listed[least[1]], order)
    ordered = [(size, place) for place, size in enumerate(sizes) if _is_in_order(listed[place][0], order)]
    return _read_in_order(session, filters, listed[min(ordered)[1]][0] if ordered else None, order)


def _is_in_order(item: Filter, order: Sort) -> bool:
    """Return whether an index has the versions of a filter in the wanted order."""
    if item.number is not None:
        return item.number[0] == order.field
    return item.order == order.field or (item.column is not None and order.field == "created")


def _measure(session: Session, item: Filter, ids: Ids) -> float:
    """Return the number of versions of a filter, as a share of those that can be sorted."""
    if item.is_text and isinstance(ids, sa.Select):
        return (_sample if _is_sqlite(session) else _estimate)(session, ids) / _FEW_TEXTS
    few = _FEW * (_NEIGHBORS if item.order == "name" else 1)
    found = ids.limit(few).subquery()
    return session.scalars(sa.select(sa.func.count()).select_from(found)).one() / few


def _sample(session: Session, query: sa.Select[Any]) -> int:
    """Return how many versions have some words, if all are like the newest ones. To count them takes too long."""
    newest = sa.select(sa.func.max(entries.c.version_id)).scalar_subquery()
    hits = query.where(texts.c.rowid > newest - _SAMPLE).subquery()
    found = session.execute(sa.select(newest, sa.select(sa.func.count()).select_from(hits).scalar_subquery())).one()
    last, count = found[0] or 0, found[1]
    return int(count * max(last, _SAMPLE) / _SAMPLE)


def _estimate(session: Session, query: sa.Select[Any]) -> int:
    """Return what PostgreSQL expects, which knows how frequent words are. To count them takes as long as the search."""
    connection = session.connection()
    compiled = query.compile(dialect=connection.dialect)
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params).scalar_one()
    return int(plan[0]["Plan"]["Plan Rows"])


def _read_few(
    filters: Sequence[Filter], few: Filter, ids: Ids, order: Sort
) -> tuple[Statement, tuple[sa.ColumnElement[Any], ...]]:
    """Read the versions of one filter, of which there are few, and sort them."""
    source: sa.FromClause = entries
    conditions = _list_conditions(filters, {id(few)})
    if few.seek is None:
        listed = ids.subquery("few")
        source = listed.join(entries, entries.c.version_id == listed.c.version_id)
        conditions = _list_conditions([item for item in filters if item is not few], set())
    if order.field not in _COLUMNS:
        source = source.join(numbers, numbers.c.version_id == entries.c.version_id)
        # By the index of numbers, SQLite would read those of all versions and look each up among the few.
        conditions.append(unindexed(numbers.c.name) == order.field)
    keys = tuple(unindexed(key) for key in _list_keys(order))
    return sa.select(entries.c.version_id, *keys).select_from(source).where(*conditions), keys


def _read_in_order(
    session: Session, filters: Sequence[Filter], first: Filter | None, order: Sort
) -> tuple[Statement, tuple[sa.ColumnElement[Any], ...]]:
    """Read the versions in the wanted order, from an index, and pass over those that a filter leaves out.

    Args:
        first: a filter whose versions are together in an index of that order.
    """
    if not _is_sqlite(session):
        session.execute(_READ_ORDERED)
    keys = _list_keys(order)
    if order.field in _COLUMNS:
        sought = {id(item) for item in filters if item is first or item.order == order.field}
        return sa.select(entries.c.version_id, *keys).where(*_list_conditions(filters, sought)), keys
    others = [item for item in filters if item.number is None or item.number[0] != order.field or item.ids is None]
    conditions = [
        numbers.c.name == order.field,
        *(item.number[1] for item in filters if item.number is not None and item not in others),
        *_list_conditions(others, set()),
    ]
    source = numbers.join(entries, entries.c.version_id == numbers.c.version_id)
    return sa.select(entries.c.version_id, *keys).select_from(source).where(*conditions), keys


def _list_conditions(filters: Sequence[Filter], sought: set[int]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of filters, of which an index serves those that are sought."""
    return [item.seek if item.seek is not None and id(item) in sought else item.condition for item in filters]


def _list_keys(order: Sort) -> tuple[sa.ColumnElement[Any], ...]:
    if order.field not in _COLUMNS:
        return numbers.c.value, numbers.c.version_id
    return tuple(entries.c[name] for name in _COLUMNS[order.field])


@contextlib.contextmanager
def _plan_for_this(session: Session) -> Iterator[None]:
    """Change how PostgreSQL plans, and leave it to the transaction as it was, which may read more than this search."""
    if _is_sqlite(session):
        yield
        return
    *before, _ = session.execute(_CHANGE).one()
    restored = dict(zip(_CHANGED, before, strict=True))
    try:
        yield
    except errors.FinchError:  # the transaction goes on, while an error of PostgreSQL ends it
        session.execute(_RESTORE, restored)
        raise
    session.execute(_RESTORE, restored)


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _read_key(scope: str, after: str | None, order: Sort) -> tuple[Any, ...] | None:
    if after is None:
        return None
    first, second = read_cursor(scope, after, (str if order.field in _COLUMNS else float, int))
    if order.field in ("created", "updated"):
        return read_moment(first), second
    return first, second


def _to_key(row: sa.Row[Any]) -> Key:
    _, first, second = tuple(row)
    return (first.isoformat() if isinstance(first, datetime) else first), second
