"""Adapter versions and their lineage. A version is numbered and immutable, except for its tags and model card."""

from __future__ import annotations

import collections
import functools
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from finch_hub import errors
from finch_hub.registry import tables, values, version_loading
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Parent, Tag
from finch_hub.registry.types import Columns, build_insert_new, insert_new, one_of, read_document
from finch_hub.specs.cursors import check_limit, read_cursor, write_cursor
from finch_hub.specs.references import LATEST, AdapterReference, check_name
from finch_hub.specs.value import JsonObject

_Key = Literal["number", "alias", "latest"]

# Core tables: SQLAlchemy prepares the relations of an entity anew for each query.
_adapters, _versions = Adapter.__table__, AdapterVersion.__table__
_bases, _aliases = tables.Base.__table__, Alias.__table__

_VERSION_COLUMNS = values.AdapterVersion.model_fields.keys() & _versions.c.keys()
_LINEAGE_COLUMNS = values.Lineage.model_fields.keys() & _versions.c.keys()
_DOCUMENTS = frozenset({"spec", "metrics", "versions", "environment"})
_SINGLE = (AdapterVersion.adapter, AdapterVersion.base)
_MULTIPLE = (AdapterVersion.aliases, AdapterVersion.tags, AdapterVersion.parents)
# A join of the multiple ones would give a row for each combination of alias, tag and parent.
_RELATIONS = (*map(joinedload, _SINGLE), *map(selectinload, _MULTIPLE))


def create(
    session: Session,
    *,
    name: str,
    digest: str,
    identity: str,
    base_id: int,
    kind: values.VersionKind,
    lineage: values.Lineage = values.Lineage(),  # noqa: B008  (frozen)
    state: values.VersionState = "ready",
    job_id: str | None = None,
    spec: JsonObject | None = None,
    metrics: JsonObject | None = None,
    card: str = "",
) -> values.AdapterVersion:
    """Add the next version of an adapter. Its number is never reused, not even after a deletion.

    Args:
        name: adapter, which need not exist yet.
        digest: digest of the stored tree of files.
        identity: hash of the cleaned configuration and the tensors.

    Raises:
        InvalidReference: the name is not well formed.
        NotFound: a parent does not exist.
    """
    check_name(name)
    numbered = session.execute(_number_version(), {"of_name": name}).one_or_none()
    if numbered is None:
        session.execute(_insert_adapter(session.get_bind().dialect.name), {"name": name})
        numbered = session.execute(_number_version(), {"of_name": name}).one()
    of_parents = [get_row(session, parent.reference, deleted=True).id for parent in lineage.parents]
    row = {
        "adapter_id": numbered.id,
        "number": numbered.versions_made,
        "digest": digest,
        "identity": identity,
        "base_id": base_id,
        "kind": kind,
        "state": state,
        "job_id": job_id,
        "spec": spec or {},
        "metrics": metrics or {},
        "card": card,
        **lineage.model_dump(exclude={"parents"}),
    }
    version_id = session.scalars(_insert_version(), row).one()
    if of_parents:
        weights = [parent.weight for parent in lineage.parents]
        links = enumerate(zip(of_parents, weights, strict=True))
        session.execute(
            sa.insert(Parent.__table__),
            [
                {"version_id": version_id, "position": position, "parent_id": parent_id, "weight": weight}
                for position, (parent_id, weight) in links
            ],
        )
    return version_loading.load(session, [version_id])[0]


def resolve(session: Session, reference: AdapterReference | str) -> values.AdapterVersion:
    """Return the version for `name/3`, `name@alias` or `name`, which means its newest ready version.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the reference is a bare name, and the adapter has no ready version.
    """
    if isinstance(reference, str):
        reference = AdapterReference.parse(reference)
    row = session.execute(_select_value(_key_of(reference)), _parameters(reference)).first()
    if row is None:
        raise _explain_missing(session, reference)
    return version_loading.to_values(session, [row])[0]


def resolve_usable(session: Session, reference: AdapterReference | str) -> values.AdapterVersion:
    """Return the version that `resolve` returns, to be used.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the version is unchecked, or the reference is a bare name, and the adapter has no ready version.
    """
    version = resolve(session, reference)
    _require_checked(version.reference, version.state, version.base.name)
    return version


def resolve_files(session: Session, text: str) -> values.VersionFiles:
    """Return files and base of the version that `resolve_usable` returns, at a fraction of the cost.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the version is unchecked, or the reference is a bare name, and the adapter has no ready version.
    """
    reference = AdapterReference.parse(text)
    row = session.execute(_select_files(_key_of(reference)), _parameters(reference)).one_or_none()
    if row is None:
        raise _explain_missing(session, reference)
    base = values.Base(**{name: getattr(row, f"base_{name}") for name in values.Base.model_fields})
    _require_checked(f"{row.name}/{row.number}", row.state, base.name)
    spec = read_document(row.spec)
    return values.VersionFiles(reference=f"{row.name}/{row.number}", digest=row.digest, base=base, spec=spec)


def require(session: Session, reference: AdapterReference) -> None:
    """Refuse a reference that `resolve` refuses, at a fraction of the cost.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the reference is a bare name, and the adapter has no ready version.
    """
    if session.execute(_select_files(_key_of(reference)), _parameters(reference)).first() is None:
        raise _explain_missing(session, reference)


def find(session: Session, name: str, *, limit: int = 100, after: str | None = None) -> values.VersionPage:
    """Return a page of the versions of an adapter, newest first.

    Args:
        after: cursor of the page before, None for the first page.

    Raises:
        NotFound: the adapter does not exist.
        InvalidSpec: the limit or the cursor is invalid.
    """
    check_limit(limit)
    scope = f"versions of {name}"
    query = version_loading.select_versions().where(_adapters.c.name == name, _versions.c.deleted_at.is_(None))
    if after is not None:
        (last,) = read_cursor(scope, after, (int,))
        query = query.where(_versions.c.number < last)
    rows = session.execute(query.order_by(_versions.c.number.desc()).limit(limit + 1)).all()
    if not rows and after is None:
        raise _adapter_not_found(session, name)
    more = write_cursor(scope, (rows[limit - 1].v_number,)) if len(rows) > limit else None
    return values.VersionPage(versions=tuple(version_loading.to_values(session, rows[:limit])), next=more)


def find_by_identity(session: Session, identity: str, base_id: int) -> values.AdapterVersion | None:
    """Return the first version of a base with these bytes, None if there is none."""
    query = select_versions().where(
        AdapterVersion.identity == identity, AdapterVersion.base_id == base_id, AdapterVersion.deleted_at.is_(None)
    )
    row = session.scalars(query.order_by(AdapterVersion.id).limit(1)).first()
    return None if row is None else to_value(row)


def end_check(session: Session, reference: str, state: values.VersionState) -> values.AdapterVersion:
    """Give an unchecked version another state, after its adapter was held against its base.

    Raises:
        NotFound: the version does not exist.
    """
    row = get_row(session, reference)
    if row.state == "unchecked":
        row.state = state
        session.flush()
    return to_value(row)


def quarantine(session: Session, reference: str) -> values.AdapterVersion:
    """Quarantine a ready version, which turned out to be unusable. Another keeps its state.

    Raises:
        NotFound: the version does not exist.
    """
    row = get_row(session, reference, deleted=True)
    if row.state == "ready":
        row.state = "quarantined"
        session.flush()
    return to_value(row)


def add_tags(session: Session, reference: str, *names: str) -> values.AdapterVersion:
    """Add tags to a version.

    Raises:
        NotFound: the version does not exist.
        InvalidReference: a tag is not well formed.
    """
    version = get_row(session, reference)
    for name in names:
        check_name(name, kind="tag")
        insert = insert_new(session, Tag.__table__, "version_id", "name")
        session.execute(insert.values(version_id=version.id, name=name))
    return _reload(session, version)


def remove_tags(session: Session, reference: str, *names: str) -> values.AdapterVersion:
    """Remove tags from a version. Ignore tags that the version does not have.

    Raises:
        NotFound: the version does not exist.
    """
    version = get_row(session, reference)
    session.execute(sa.delete(Tag).where(Tag.version_id == version.id, one_of(Tag.name, names)))
    return _reload(session, version)


def edit_card(session: Session, reference: str, card: str) -> values.AdapterVersion:
    """Replace the text of a version's model card.

    Raises:
        NotFound: the version does not exist.
    """
    row = get_row(session, reference)
    row.card = card
    session.flush()
    return to_value(row)


def get_ancestry(session: Session, reference: str) -> values.Ancestry:
    """Return a version with all its ancestors, including deleted ones.

    Raises:
        NotFound: the version does not exist.
    """
    root = get_row(session, reference)
    ancestors = sa.select(Parent.parent_id).where(Parent.version_id == root.id).cte(recursive=True)
    ancestors = ancestors.union(sa.select(Parent.parent_id).join(ancestors, Parent.version_id == ancestors.c.parent_id))
    others = select_versions().where(AdapterVersion.id.in_(sa.select(ancestors.c.parent_id)))
    rows = {row.id: row for row in session.scalars(others)} | {root.id: root}
    found = {root.id: root}  # in the order in which they are reached
    waiting = collections.deque([root])
    while waiting:
        for parent in waiting.popleft().parents:
            if parent.parent_id not in found:
                found[parent.parent_id] = rows[parent.parent_id]
                waiting.append(rows[parent.parent_id])
    versions = tuple(map(to_value, found.values()))
    links = tuple(
        values.ParentLink(version=version.reference, parent=parent.reference, weight=parent.weight)
        for version in versions
        for parent in version.lineage.parents
    )
    return values.Ancestry(versions=versions, links=links)


def lock_adapter(session: Session, name: str) -> None:
    """Lock the adapter until the commit, so that no alias is set to a version that is being deleted."""
    session.execute(sa.select(Adapter.id).where(Adapter.name == name).with_for_update())


def select_versions() -> sa.Select[AdapterVersion]:
    """Return a query of versions with their relations."""
    query = sa.select(AdapterVersion).join(AdapterVersion.adapter).options(*_RELATIONS)
    return query.execution_options(populate_existing=True)  # core statements and other processes change rows too


def get_row(session: Session, reference: AdapterReference | str, *, deleted: bool = False) -> AdapterVersion:
    """Return the row of a version, with the errors of `resolve`. `deleted` allows deleted versions."""
    if isinstance(reference, str):
        reference = AdapterReference.parse(reference)
    query = _select_one(_key_of(reference), deleted=deleted)
    row = session.scalars(query, _parameters(reference)).first()
    if row is None:
        raise _explain_missing(session, reference)
    return row


def to_value(row: AdapterVersion) -> values.AdapterVersion:
    """Return the value of a row."""
    parents = tuple(values.ParentVersion(reference=parent.reference, weight=parent.weight) for parent in row.parents)
    return values.AdapterVersion(
        **{column: _read_column(row, column) for column in _VERSION_COLUMNS},
        name=row.adapter.name,
        base=values.Base(**{name: getattr(row.base, name) for name in values.Base.model_fields}),
        lineage=values.Lineage(parents=parents, **{column: _read_column(row, column) for column in _LINEAGE_COLUMNS}),
        aliases=tuple(alias.name for alias in row.aliases),
        tags=tuple(tag.name for tag in row.tags),
    )


def _read_column(row: AdapterVersion, column: str) -> Any:
    value = getattr(row, column)
    return read_document(value) if column in _DOCUMENTS else value


def _reload(session: Session, row: AdapterVersion) -> values.AdapterVersion:
    return resolve(session, AdapterReference(row.adapter.name, version=row.number))


def _key_of(reference: AdapterReference) -> _Key:
    return "number" if reference.version is not None else "alias" if reference.alias is not None else "latest"


def _parameters(reference: AdapterReference) -> Columns:
    return {"of_name": reference.name, "of_number": reference.version, "of_alias": reference.alias}


# Most jobs begin with one of these statements. They are cached, because building one takes longer than running it.


@functools.cache
def _select_one(key: _Key, *, deleted: bool) -> sa.Select[AdapterVersion]:
    return _where_key(select_versions(), key, deleted=deleted)


@functools.cache
def _number_version() -> ReturningUpdate[Any]:
    numbered = sa.update(_adapters).where(_adapters.c.name == sa.bindparam("of_name"))
    numbered = numbered.values(versions_made=_adapters.c.versions_made + 1)
    return numbered.returning(_adapters.c.id, _adapters.c.versions_made)


@functools.cache
def _insert_adapter(dialect: str) -> sa.Insert:
    return build_insert_new(dialect, _adapters, "name")


@functools.cache
def _insert_version() -> ReturningInsert[Any]:
    return sa.insert(_versions).returning(_versions.c.id)


@functools.cache
def _select_value(key: _Key) -> sa.Select[Any]:
    return _where_key(version_loading.select_versions(), key, deleted=False)


@functools.cache
def _select_files(key: _Key) -> sa.Select[Any]:
    columns = [*(_versions.c[name] for name in ("number", "digest", "state", "spec")), _adapters.c.name]
    base = [_bases.c[name].label(f"base_{name}") for name in values.Base.model_fields]
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    query = sa.select(*columns, *base).select_from(joined.join(_bases, _bases.c.id == _versions.c.base_id))
    return _where_key(query, key, deleted=False)


def _where_key(query: sa.Select[Any], key: _Key, *, deleted: bool) -> sa.Select[Any]:
    query = query.where(_adapters.c.name == sa.bindparam("of_name"))
    if not deleted:
        query = query.where(_versions.c.deleted_at.is_(None))
    if key == "number":
        return query.where(_versions.c.number == sa.bindparam("of_number"))
    if key == "alias":
        has_alias = sa.exists().where(
            _aliases.c.version_id == _versions.c.id, _aliases.c.name == sa.bindparam("of_alias")
        )
        return query.where(has_alias)
    return query.where(_versions.c.state == "ready").order_by(_versions.c.number.desc()).limit(1)


def _explain_missing(session: Session, reference: AdapterReference) -> errors.FinchError:
    name = reference.name
    rows = session.execute(
        sa.select(AdapterVersion.number, AdapterVersion.state)
        .join(AdapterVersion.adapter)
        .where(Adapter.name == name, AdapterVersion.deleted_at.is_(None))
        .order_by(AdapterVersion.number.desc())
    ).all()
    if not rows:
        return _adapter_not_found(session, name)
    if reference.version is not None:
        return errors.NotFound("adapter version", str(reference), [f"{name}/{row.number}" for row in rows])
    if reference.alias is not None:
        known = session.scalars(
            sa.select(Alias.name).join(Adapter, Adapter.id == Alias.adapter_id).where(Adapter.name == name)
        )
        return errors.NotFound("alias", str(reference), [f"{name}@{alias}" for alias in [*known, LATEST]])
    newest = f"{name}/{rows[0].number}"
    advice = f"write {newest} to use it anyway"
    if rows[0].state == "unchecked":
        advice = f"run `finch-hub adapters check {newest}` where the files of its base are"
    return errors.Conflict(f"adapter {name} has no ready version: {newest} is {rows[0].state} ({advice})")


def _require_checked(reference: str, state: str, base: str) -> None:
    if state == "unchecked":
        raise errors.Conflict(
            f"adapter {reference} is unchecked: the files of its base {base} were not there when it was imported"
            f" (run `finch-hub adapters check {reference}` where they are)"
        )


def _adapter_not_found(session: Session, name: str) -> errors.NotFound:
    return errors.NotFound("adapter", name, session.scalars(sa.select(Adapter.name).limit(1000)))
