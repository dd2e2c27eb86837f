"""Terms of a query as conditions on the index of versions, and as the lists of versions that meet them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_versions, datasets, search_index, tables
from finch_hub.registry.types import BigId, Instant, one_of
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.queries import METRICS, NumberFilter, Term, TextFilter, TimeFilter, Words
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value

Condition = sa.ColumnElement[bool]

entries = sa.table(
    "searched_versions",
    sa.column("version_id", BigId),
    sa.column("adapter_id", BigId),
    sa.column("name", sa.String()),
    sa.column("number", sa.Integer()),
    sa.column("base_id", BigId),
    sa.column("kind", sa.String()),
    sa.column("state", sa.String()),
    sa.column("preset", sa.String()),
    sa.column("owner", sa.String()),
    sa.column("created_at", Instant()),
    sa.column("updated_at", Instant()),
    sa.column("words", postgresql.TSVECTOR()),  # on PostgreSQL only
)
numbers = sa.table("version_numbers", sa.column("version_id", BigId), sa.column("name"), sa.column("value", sa.Float()))
texts = sa.table("version_texts", sa.column("rowid", BigId))  # on SQLite only

_tags, _lineage = tables.Tag.__table__, tables.Parent.__table__
_versions, _bases = tables.AdapterVersion.__table__, tables.Base.__table__
_COLUMNS = ("name", "preset", "kind", "state", "owner")
_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_MAX_DIGESTS = 100
_LAST = "\U0010ffff"  # no name has it
_MAX_NAMES = 1000  # of numbers that are looked through for similar ones
_MAX_LISTED = 40


Ids = sa.Select[Any] | sa.CompoundSelect[Any]
"""A query of the ids of versions."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a term says about a row of `entries`.

    Attributes:
        condition: it for one row that was found in another way, so that no index of `entries` is used for it.
        ids: query of the versions that meet it, by an index; None if it would list most of them.
        seek: the condition for an index of `entries`, if there is one.
        column: column that `seek` compares with one value. Its index is in the order of creation.
        order: order of an index in which `seek` is one range.
        number: name of a number, and the condition on its value.
        is_text: whether it is about words.
    """

    condition: Condition
    ids: Ids | None
    seek: Condition | None = None
    column: str | None = None
    order: str | None = None
    number: tuple[str, Condition] | None = None
    is_text: bool = False


def unindexed(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the value of a column so that no index is used for it."""
    return sa.func.coalesce(column, column, type_=column.type)


def build_filters(session: Session, terms: Sequence[Term]) -> list[Filter]:
    """Return the filters of the terms of a query.

    Raises:
        NotFound: a base, a data set, a parent or a number that is named does not exist.
    """
    found: list[Filter] = []
    words = [term for term in terms if isinstance(term, Words)]
    if words:
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        found.append(_build_texts(session, words) if is_sqlite else _build_words(words))
    for term in terms:
        if isinstance(term, TextFilter):
            made = _TEXT_FILTERS[term.field](session, term)
        elif isinstance(term, TimeFilter):
            made = _build_time(term)
        elif isinstance(term, NumberFilter):
            made = _build_number(session, term)
        else:
            continue
        if term.negated:
            made = Filter(condition=made.condition.is_not(sa.true()), ids=None)
        found.append(made)
    return found


def _of_entry(
    name: str,
    test: Callable[[sa.ColumnElement[Any]], Condition],
    *,
    column: str | None = None,
    order: str | None = None,
) -> Filter:
    seek = test(entries.c[name])
    ids = sa.select(entries.c.version_id).where(seek)
    return Filter(condition=test(unindexed(entries.c[name])), ids=ids, seek=seek, column=column, order=order)


def _build_texts(session: Session, words: Sequence[Words]) -> Filter:
    """Return the filter for SQLite's FTS5, whose language knows AND and NOT, but not NOT alone."""

    def phrase(term: Words) -> str:
        # A text may be decomposed or not, and SQLite can do neither.
        spelled = dict.fromkeys([term.text, *(unicodedata.normalize(form, term.text) for form in ("NFC", "NFD"))])
        phrases = [f'"{search_index.fold_query(session, text)}"{"*" if term.begins else ""}' for text in spelled]
        return f"({' OR '.join(phrases)})"

    wanted = " AND ".join(phrase(term) for term in words if not term.negated)
    unwanted = " OR ".join(phrase(term) for term in words if term.negated)
    if not wanted:
        hits = sa.select(texts.c.rowid).where(_matches(unwanted))
        return Filter(condition=entries.c.version_id.not_in(hits), ids=None)
    hits = sa.select(texts.c.rowid.label("version_id")).where(
        _matches(f"({wanted}) NOT ({unwanted})" if unwanted else wanted)
    )
    is_hit = sa.exists(hits.where(texts.c.rowid == entries.c.version_id).correlate(entries))
    return Filter(condition=is_hit, ids=hits, is_text=True)


def _matches(expression: str) -> Condition:
    return sa.literal_column("version_texts", sa.String()).op("MATCH", is_comparison=True)(expression)


def _build_words(words: Sequence[Words]) -> Filter:
    """Return the filter for PostgreSQL's text search."""
    language: sa.ColumnElement[Any] = sa.literal_column("'simple'")
    nothing: sa.ColumnElement[Any] = sa.literal_column("$$' '$$::tsquery")  # a word that no text has
    wanted: sa.ColumnElement[Any] | None = None
    for term in words:
        query: sa.ColumnElement[Any] = sa.func.phraseto_tsquery(language, sa.func.fold_text(term.text))
        if term.begins:
            # Only the last word may be a beginning. Cast from a text, so that the parser finds the same words.
            text = sa.func.nullif(sa.cast(query, sa.Text), "")
            query = sa.func.coalesce(sa.cast(text.concat(":*"), postgresql.TSQUERY), nothing)
        # The negation of a query without words would be met by no version.
        query = sa.case((sa.func.numnode(query) == 0, nothing), else_=query)
        if term.negated:
            query = sa.func.tsquery_not(query)
        wanted = query if wanted is None else wanted.op("&&")(query)
    seek: Condition = entries.c.words.op("@@", is_comparison=True)(wanted)
    condition: Condition = unindexed(entries.c.words).op("@@", is_comparison=True)(wanted)
    if all(term.negated for term in words):
        return Filter(condition=condition, ids=None)
    ids = sa.select(entries.c.version_id).where(seek)
    return Filter(condition=condition, ids=ids, seek=seek, is_text=True)


def _build_column(session: Session, term: TextFilter) -> Filter:
    if term.field == "name" and term.text.endswith("*"):
        begin = term.text.removesuffix("*")
        return _of_entry("name", lambda name: sa.and_(name >= begin, name < begin + _LAST), order="name")
    text = adapter_names.find_current(session, term.text) if term.field == "name" else term.text
    return _of_entry(term.field, lambda value: value == text, column=term.field)


def _build_base(session: Session, term: TextFilter) -> Filter:
    is_named = sa.or_(_bases.c.name == term.text, _bases.c.fingerprint == term.text, _bases.c.public_id == term.text)
    ids = session.scalars(sa.select(_bases.c.id).where(is_named)).all()
    if not ids:
        raise errors.NotFound("base", term.text, session.scalars(sa.select(_bases.c.name).limit(1000)))
    if len(ids) == 1:
        return _of_entry("base_id", lambda value: value == ids[0], column="base_id")
    return _of_entry("base_id", lambda value: value.in_(ids))


def _build_tag(_: Session, term: TextFilter) -> Filter:
    value = sa.select(_tags.c.value).where(_tags.c.version_id == entries.c.version_id, _tags.c.name == term.text)
    of_row = value.correlate(entries).scalar_subquery()
    ids = sa.select(_tags.c.version_id).where(_tags.c.name == term.text)
    if term.value is None:
        return Filter(condition=of_row.is_not(None), ids=ids)
    return Filter(condition=of_row == term.value, ids=ids.where(_tags.c.value == term.value))


def _build_parent(session: Session, term: TextFilter) -> Filter:
    reference = AdapterReference.parse(term.text)
    if reference.version is None and reference.alias is None:  # any version of the adapter
        parents = sa.select(_versions.c.id).where(
            _versions.c.adapter_id == adapter_names.find_id(session, reference.name)
        )
        if session.execute(parents.limit(1)).first() is None:
            adapter_versions.require(session, reference)  # which tells similar names
        is_link: Condition = _lineage.c.parent_id.in_(parents)
    else:
        is_link = _lineage.c.parent_id == adapter_versions.get_row(session, reference, deleted=True).id
    links = sa.select(sa.func.count()).where(_lineage.c.version_id == entries.c.version_id, is_link)
    ids = sa.select(_lineage.c.version_id).where(is_link).distinct()
    return Filter(condition=links.correlate(entries).scalar_subquery() > 0, ids=ids)


def _build_data(session: Session, term: TextFilter) -> Filter:
    digests = datasets.list_made(session, _find_digests(session, term.text))
    reads = [one_of(_versions.c[name], digests) for name in ("train_digest", "validation_digest")]
    rows = sa.select(sa.func.count()).where(_versions.c.id == entries.c.version_id, sa.or_(*reads))
    ids = sa.union(*(sa.select(_versions.c.id.label("version_id")).where(read) for read in reads))
    return Filter(condition=rows.correlate(entries).scalar_subquery() > 0, ids=ids)


def _find_digests(session: Session, text: str) -> list[str]:
    stored = datasets.datasets
    digests = list(session.scalars(sa.select(stored.c.digest).where(stored.c.name == text)))
    if not digests and len(text) == 64 and _PREFIX.fullmatch(text):
        return [text]  # of data that may not be stored any more
    if not digests and _PREFIX.fullmatch(text):
        is_near = sa.and_(stored.c.digest >= text, stored.c.digest < f"{text}g")
        digests = list(session.scalars(sa.select(stored.c.digest).where(is_near).limit(_MAX_DIGESTS)))
    return digests or [datasets.get(session, text).digest]  # which tells similar names


def _build_time(term: TimeFilter) -> Filter:
    def test(time: sa.ColumnElement[Any]) -> Condition:
        limits = [time >= term.begin] if term.begin is not None else []
        return sa.and_(*limits, *([time < term.end] if term.end is not None else []))

    return _of_entry(f"{term.field}_at", test, order=term.field)


def require_number(session: Session, name: str) -> None:
    """Refuse a number that no version has, unless it is one of the settings that a version can have.

    Raises:
        NotFound: there is no such number; names those of its group.
    """
    group, _, field = name.partition(".")
    kind, settings = _GROUPS[group]
    if field in settings or session.scalar(sa.select(sa.exists().where(numbers.c.name == name))):
        return
    # Each step finds the next name in the index. DISTINCT would read the numbers of all versions.
    found = sa.select(sa.func.min(numbers.c.name).label("name")).cte("names", recursive=True)
    following = sa.select(sa.func.min(numbers.c.name)).where(numbers.c.name > found.c.name).scalar_subquery()
    found = found.union_all(sa.select(following).where(found.c.name.is_not(None)))
    names = session.scalars(sa.select(found.c.name).where(found.c.name.is_not(None)).limit(_MAX_NAMES))
    known = {other.removeprefix(f"{group}.") for other in names if other.startswith(f"{group}.")}
    known |= settings if group != "metric" else set()  # versions have few of the metrics that there are
    raise errors.NotFound(kind, field, known, lists_known=len(known) <= _MAX_LISTED)


def _build_number(session: Session, term: NumberFilter) -> Filter:
    require_number(session, term.name)
    value = sa.select(numbers.c.value).where(numbers.c.version_id == entries.c.version_id, numbers.c.name == term.name)
    of_row = value.correlate(entries).scalar_subquery()
    compare = _OPERATORS[term.operator]
    is_met = compare(numbers.c.value, term.number)
    ids = sa.select(numbers.c.version_id).where(numbers.c.name == term.name, is_met)
    return Filter(condition=compare(of_row, term.number), ids=ids, number=(term.name, is_met))


_OPERATORS: dict[str, Callable[[Any, float], Condition]] = {
    "=": lambda column, number: column == number,
    "<": lambda column, number: column < number,
    "<=": lambda column, number: column <= number,
    ">": lambda column, number: column > number,
    ">=": lambda column, number: column >= number,
}


def _list_numbers(config: type[Value]) -> frozenset[str]:
    """Return the fields of a configuration that are numbers, or can be."""

    def is_number(kind: Any) -> bool:
        if get_origin(kind) in (Union, UnionType):
            return any(map(is_number, get_args(kind)))
        return kind in (int, float) or (get_origin(kind) is Annotated and is_number(get_args(kind)[0]))

    return frozenset(name for name, field in config.model_fields.items() if is_number(field.annotation))


_GROUPS = {
    "metric": ("metric", METRICS),
    "lora": ("number of LoRA settings", _list_numbers(LoRAConfig)),
    "training": ("number of training settings", _list_numbers(TrainingConfig)),
}
_TEXT_FILTERS: dict[str, Callable[[Session, TextFilter], Filter]] = {
    **dict.fromkeys(_COLUMNS, _build_column),
    "base": _build_base,
    "tag": _build_tag,
    "parent": _build_parent,
    "data": _build_data,
}
