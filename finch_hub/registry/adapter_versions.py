"""Adapter versions and their lineage. A version is numbered and immutable, except for its tags and model card."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.sql.dml import ReturningInsert

from finch_hub import errors
from finch_hub.registry import adapter_names, audit, tables, values, version_loading
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Parent
from finch_hub.registry.types import Columns, from_json, make_storable, now, one_of, read_document, to_json
from finch_hub.specs.annotations import Tag, check_notes
from finch_hub.specs.cards import name_revision
from finch_hub.specs.cursors import check_limit, read_cursor, write_cursor
from finch_hub.specs.references import LATEST, AdapterReference, check_adapter_name
from finch_hub.specs.value import JsonObject

_Key = Literal["number", "alias", "latest"]

# Core tables: SQLAlchemy prepares the relations of an entity anew for each query.
_adapters, _versions = Adapter.__table__, AdapterVersion.__table__
_bases, _aliases, _tags = tables.Base.__table__, Alias.__table__, tables.Tag.__table__
_evidence = tables.Evidence.__table__

_VERSION_COLUMNS = (values.AdapterVersion.model_fields.keys() & _versions.c.keys()) - {"updated_at"}
_LINEAGE_COLUMNS = values.Lineage.model_fields.keys() & _versions.c.keys()
_DOCUMENTS = frozenset({"spec", "metrics", "versions", "environment"})
_SINGLE = (AdapterVersion.adapter, AdapterVersion.base)
_MULTIPLE = (AdapterVersion.aliases, AdapterVersion.tags, AdapterVersion.parents)
NEVER_HAD_FILES = AdapterVersion.digest == AdapterVersion.identity  # no tree has the digest
# A join of the multiple ones would give a row for each combination of alias, tag and parent.
_RELATIONS = (*map(joinedload, _SINGLE), *map(selectinload, _MULTIPLE))


def create(
    session: Session,
    *,
    name: str,
    digest: str,
    identity: str,
    base: values.Base,
    kind: values.VersionKind,
    lineage: values.Lineage = values.Lineage(),  # noqa: B008  (frozen)
    state: values.VersionState = "ready",
    job_id: str | None = None,
    spec: JsonObject | None = None,
    metrics: JsonObject | None = None,
    card: str = "",
    evidence: JsonObject | None = None,
    samples: str | None = None,
    owner: str = "",
) -> values.AdapterVersion:
    """Add the next version of an adapter. Its number is never reused, not even after a deletion.

    Args:
        name: adapter, which need not exist yet; a former name stands for the adapter that had it.
        digest: digest of the stored tree of files.
        identity: hash of the cleaned configuration and the tensors.
        evidence: document of an `Evidence`.
        samples: digest of the stored sample answers.

    Raises:
        InvalidReference: the name is not well formed.
        Deleted: the adapter is deleted, or a parent was purged.
        NotFound: a parent does not exist.
    """
    check_adapter_name(name)
    place = adapter_names.take_number(session, name)
    row = {
        "number": place.number,
        "digest": digest,
        "identity": identity,
        "kind": kind,
        "state": state,
        "job_id": job_id,
        "spec": spec or {},
        "metrics": metrics or {},
        "card": make_storable(card),
        "owner": owner,
        "preset": _text_or_none((spec or {}).get("preset")),
    }
    origin = lineage.model_dump(exclude={"parents"})
    parents = [_find_parent(session, parent.reference) for parent in lineage.parents]
    made = session.execute(_insert_version(), {"adapter_id": place.adapter_id, "base_id": base.id} | row | origin).one()
    weights = [parent.weight for parent in lineage.parents]
    if parents:
        links = [
            {"version_id": made.id, "position": position, "parent_id": parent.id, "weight": weight}
            for position, (parent, weight) in enumerate(zip(parents, weights, strict=True))
        ]
        session.execute(sa.insert(Parent.__table__), links)
    if evidence is not None:
        session.execute(sa.insert(_evidence).values(version_id=made.id, document=evidence, samples=samples))
    return values.AdapterVersion(
        **row | _read_back(row),
        name=place.name,
        base=base,
        lineage=values.Lineage(
            **origin | _read_back(origin),
            parents=tuple(
                values.ParentVersion(reference=f"{parent.adapter.name}/{parent.number}", weight=weight)
                for parent, weight in zip(parents, weights, strict=True)
            ),
        ),
        created_at=made.created_at,
        updated_at=made.created_at,
    )


def _find_parent(session: Session, reference: str) -> AdapterVersion:
    parent = get_row(session, reference, deleted=True)
    if parent.purged_at is not None:
        raise errors.Deleted("adapter version", reference, is_purged=True)
    return parent


def _read_back(columns: Columns) -> Columns:
    """Return the documents among some columns as a reader gets them. To ask the database would take as long again."""
    return {name: from_json(to_json(columns[name])) for name in columns.keys() & _DOCUMENTS}


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def resolve(session: Session, reference: AdapterReference | str) -> values.AdapterVersion:
    """Return the version for `name/3`, `name@alias` or `name`, which means its newest ready version.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the reference is a bare name, and the adapter has no ready version.
    """
    if isinstance(reference, str):
        reference = AdapterReference.parse(reference)
    row = _find_row(session, reference, _select_value)
    if row is None:
        raise explain_missing(session, reference)
    return version_loading.to_values(session, [row])[0]


def list_aliases(session: Session, names: Iterable[str]) -> dict[str, str]:
    """Return the references at which the aliases of adapters point, by `name@alias`."""
    query = (
        sa.select(_adapters.c.name, _aliases.c.name.label("alias"), _versions.c.number)
        .join(_aliases, _aliases.c.adapter_id == _adapters.c.id)
        .join(_versions, _versions.c.id == _aliases.c.version_id)
        .where(one_of(_adapters.c.name, sorted(names)))
    )
    return {f"{row.name}@{row.alias}": f"{row.name}/{row.number}" for row in session.execute(query)}


def read_meanings(session: Session, names: Iterable[str]) -> dict[str, str]:
    """Return the version that each bare name stands for, by its name. Names that stand for none are left out."""
    found = {}
    for name in names:
        with contextlib.suppress(errors.FinchError):
            found[name] = resolve(session, AdapterReference(name)).reference
    return found


def explain_meanings(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return sentences about the bare names that stand for another version than before."""
    return [
        f"{name} now means {after[name]}, it was {reference} (name the number or set an alias)."
        for name, reference in before.items()
        if name in after and after[name] != reference
    ]


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
    row = _find_files(session, reference)
    if row is None:
        raise explain_missing(session, reference)
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
    if _find_files(session, reference) is None:
        raise explain_missing(session, reference)


def _find_files(session: Session, reference: AdapterReference) -> sa.Row[Any] | None:
    return _find_row(session, reference, _select_files)


def _find_row(
    session: Session, reference: AdapterReference, select: Callable[..., sa.Select[Any]]
) -> sa.Row[Any] | None:
    """Return the row of a version, by the name of its adapter, or by a former one."""
    key = _key_of(reference)
    row = session.execute(select(key, by_id=False), _parameters(reference)).first()
    if row is None and (adapter_id := adapter_names.find_id(session, reference.name)) is not None:
        row = session.execute(select(key, by_id=True), _parameters(reference, adapter_id)).first()
    return row


def find(session: Session, name: str, *, limit: int = 100, after: str | None = None) -> values.VersionPage:
    """Return a page of the versions of an adapter, newest first.

    Args:
        after: cursor of the page before, None for the first page.

    Raises:
        NotFound: the adapter does not exist.
        InvalidSpec: the limit or the cursor is invalid.
    """
    check_limit(limit)
    current = adapter_names.find_current(session, name)
    scope = f"versions of {current}"
    query = version_loading.select_versions().where(_adapters.c.name == current, _versions.c.deleted_at.is_(None))
    if after is not None:
        (last,) = read_cursor(scope, after, (int,))
        query = query.where(_versions.c.number < last)
    rows = session.execute(query.order_by(_versions.c.number.desc()).limit(limit + 1)).all()
    if not rows and after is None:
        raise _find_deletion(session, AdapterReference(current)) or adapter_names.not_found(session, name)
    more = write_cursor(scope, (rows[limit - 1].v_number,)) if len(rows) > limit else None
    return values.VersionPage(versions=tuple(version_loading.to_values(session, rows[:limit])), next=more)


def find_by_identity(session: Session, identity: str, base_id: int) -> values.AdapterVersion | None:
    """Return the first version of a base with these bytes, None if there is none."""
    query = select_versions().where(
        AdapterVersion.identity == identity, AdapterVersion.base_id == base_id, AdapterVersion.deleted_at.is_(None)
    )
    row = session.scalars(query.order_by(AdapterVersion.id).limit(1)).first()
    return None if row is None else to_value(row)


def find_made_in(session: Session, name: str, text: str) -> tuple[values.AdapterVersion, ...]:
    """Return the versions of an adapter whose environment has a text without quotes, newest first.

    The database reads all environments, and only what has the text is loaded. A damaged one is a text, too.
    """
    has_text = sa.cast(_versions.c.environment, sa.Text).contains(text, autoescape=True)
    of_adapter = _versions.c.adapter_id == adapter_names.find_id(session, name), _versions.c.deleted_at.is_(None)
    query = sa.select(_versions.c.id).where(*of_adapter, has_text).order_by(_versions.c.number.desc())
    return version_loading.load(session, session.scalars(query).all())


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


def quarantine(session: Session, reference: str, *, job_id: str) -> values.AdapterVersion:
    """Quarantine a ready version, which turned out to be unusable. Another keeps its state.

    Args:
        job_id: the job that could not use it, for the audit.

    Raises:
        NotFound: the version does not exist.
    """
    row = get_row(session, reference, deleted=True)
    if row.state == "ready":
        row.state = "quarantined"
        session.flush()
        audit.add_of_job(
            session, job_id, action="version.quarantine", on=f"{row.adapter.name}/{row.number}", details={}
        )
    return to_value(row)


def add_tags(session: Session, reference: str, *texts: str) -> values.AdapterVersion:
    """Add tags to a version, as `name` or `name=value`. A tag that it has takes the new value.

    Raises:
        NotFound: the version does not exist.
        InvalidReference: a tag is not well formed.
    """
    row = get_row(session, reference)
    for tag in map(Tag.parse, texts):
        session.execute(sa.delete(_tags).where(_tags.c.version_id == row.id, _tags.c.name == tag.name))
        session.execute(_tags.insert().values(version_id=row.id, name=tag.name, value=tag.value))
    return _conclude_change(session, row)


def remove_tags(session: Session, reference: str, *texts: str) -> values.AdapterVersion:
    """Remove tags from a version, as `name`, or as `name=value` if they have that value. Ignore others.

    Raises:
        NotFound: the version does not exist.
    """
    row = get_row(session, reference)
    for name, has_value, value in (text.partition("=") for text in texts):
        is_tag = _tags.c.version_id == row.id, _tags.c.name == name
        session.execute(sa.delete(_tags).where(*is_tag, *([_tags.c.value == value] if has_value else [])))
    return _conclude_change(session, row)


def edit_card(
    session: Session,
    reference: str,
    text: str,
    *,
    expected: str | None = None,
    is_written: bool = False,
    edited_at: datetime | None = None,
) -> values.AdapterVersion:
    """Replace the text of a version's model card.

    Args:
        expected: revision that the card must have now; None checks nothing.
        is_written: whether the text is the written one again, and not that of a user.
        edited_at: when the user edited it; None for now.

    Raises:
        NotFound: the version does not exist.
        Conflict: the card was edited since.
    """
    row = get_row(session, reference)
    # It waits for another edit, and sees what that did. Tags and evaluations of the version do not wait.
    query = sa.select(_versions.c.card, _versions.c.card_edited_at).where(_versions.c.id == row.id)
    there = session.execute(query.with_for_update(key_share=True)).one()
    current = name_revision(there.card if there.card_edited_at is not None else None)
    if expected is not None and expected != current:
        fix = "look at the card, and edit it again"
        raise errors.Conflict(f"the card of {row.adapter.name}/{row.number} was edited meanwhile ({fix})")
    return _conclude_change(session, row, card=text, card_edited_at=None if is_written else edited_at or now())


def edit_notes(session: Session, reference: str, notes: str) -> values.AdapterVersion:
    """Replace the notes of a version.

    Raises:
        NotFound: the version does not exist.
        InvalidInput: the text is too long.
    """
    row = get_row(session, reference)
    return _conclude_change(session, row, notes=check_notes(notes))


def _conclude_change(session: Session, row: AdapterVersion, **changes: Any) -> values.AdapterVersion:
    # One statement: with a second change of the row, PostgreSQL would lock its adapter, which others lock before it.
    session.execute(sa.update(_versions).where(_versions.c.id == row.id).values(updated_at=now(), **changes))
    return resolve(session, AdapterReference(row.adapter.name, version=row.number))


def lock_adapter(session: Session, name: str) -> str:
    """Lock the adapter until the commit, so that no alias is set to a version that is being deleted.

    Return the name that it has now.
    """
    if session.scalar(_lock_adapter(), {"of_name": name}) is not None:
        return name
    # It is a former name, or of no adapter. A locked adapter is not renamed any more, whatever its name is by then.
    is_adapter = _adapters.c.id == adapter_names.find_id(session, name)
    current: str | None = session.scalar(sa.select(_adapters.c.name).where(is_adapter).with_for_update())
    return name if current is None else current


def select_versions() -> sa.Select[AdapterVersion]:
    """Return a query of versions with their relations."""
    query = sa.select(AdapterVersion).join(AdapterVersion.adapter).options(*_RELATIONS)
    return query.execution_options(populate_existing=True)  # core statements and other processes change rows too


def get_row(session: Session, reference: AdapterReference | str, *, deleted: bool = False) -> AdapterVersion:
    """Return the row of a version, with the errors of `resolve`. `deleted` allows deleted versions."""
    if isinstance(reference, str):
        reference = AdapterReference.parse(reference)
    key = _key_of(reference)
    row = session.scalars(_select_one(key, deleted=deleted, by_id=False), _parameters(reference)).first()
    if row is None and (adapter_id := adapter_names.find_id(session, reference.name)) is not None:
        query = _select_one(key, deleted=deleted, by_id=True)
        row = session.scalars(query, _parameters(reference, adapter_id)).first()
    if row is None:
        raise explain_missing(session, reference)
    return row


def to_value(row: AdapterVersion) -> values.AdapterVersion:
    """Return the value of a row.

    Raises:
        Damaged: the registry lacks the row of its base.
    """
    base: object = row.base
    if base is None:
        what = f"adapter {row.adapter.name}/{row.number}: its base is not in the registry"
        raise errors.Damaged(f"{what} (run `finch-hub fsck`)")
    known = (parent for parent in row.parents if parent.reference is not None)  # a damaged registry may lack its row
    parents = tuple(values.ParentVersion(reference=parent.reference, weight=parent.weight) for parent in known)
    return values.AdapterVersion(
        **{column: _read_column(row, column) for column in _VERSION_COLUMNS},
        name=row.adapter.name,
        description=row.adapter.description,
        updated_at=row.updated_at or row.created_at,
        base=values.Base(**{name: getattr(row.base, name) for name in values.Base.model_fields}),
        lineage=values.Lineage(parents=parents, **{column: _read_column(row, column) for column in _LINEAGE_COLUMNS}),
        aliases=tuple(alias.name for alias in row.aliases),
        tags=tuple(str(Tag(tag.name, tag.value)) for tag in row.tags),
    )


def _read_column(row: AdapterVersion, column: str) -> Any:
    value = getattr(row, column)
    return read_document(value) if column in _DOCUMENTS else value


def _key_of(reference: AdapterReference) -> _Key:
    return "number" if reference.version is not None else "alias" if reference.alias is not None else "latest"


def _parameters(reference: AdapterReference, adapter_id: int | None = None) -> Columns:
    adapter: Columns = {"of_name": reference.name} if adapter_id is None else {"of_id": adapter_id}
    return adapter | {"of_number": reference.version, "of_alias": reference.alias}


# Most jobs begin with one of these statements. They are cached, because building one takes longer than running it.
# Only a former name of an adapter needs its id.


@functools.cache
def _select_one(key: _Key, *, deleted: bool, by_id: bool) -> sa.Select[AdapterVersion]:
    return _where_key(select_versions(), key, deleted=deleted, by_id=by_id)


@functools.cache
def _insert_version() -> ReturningInsert[Any]:
    return sa.insert(_versions).returning(_versions.c.id, _versions.c.created_at)


@functools.cache
def _lock_adapter() -> sa.Select[int]:
    return sa.select(_adapters.c.id).where(_adapters.c.name == sa.bindparam("of_name")).with_for_update()


@functools.cache
def _select_value(key: _Key, *, by_id: bool) -> sa.Select[Any]:
    return _where_key(version_loading.select_versions(), key, deleted=False, by_id=by_id)


@functools.cache
def _select_files(key: _Key, *, by_id: bool) -> sa.Select[Any]:
    columns = [*(_versions.c[name] for name in ("number", "digest", "state", "spec")), _adapters.c.name]
    base = [_bases.c[name].label(f"base_{name}") for name in values.Base.model_fields]
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    query = sa.select(*columns, *base).select_from(joined.join(_bases, _bases.c.id == _versions.c.base_id))
    return _where_key(query, key, deleted=False, by_id=by_id)


def _where_key(query: sa.Select[Any], key: _Key, *, deleted: bool, by_id: bool) -> sa.Select[Any]:
    query = query.where(
        _adapters.c.id == sa.bindparam("of_id") if by_id else _adapters.c.name == sa.bindparam("of_name")
    )
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


def _find_deletion(session: Session, reference: AdapterReference) -> errors.Deleted | None:
    """Return the error that says how a version or its adapter was deleted, None if neither was."""
    row = session.execute(
        sa.select(
            Adapter.deleted_at.label("adapter_deleted_at"),
            AdapterVersion.deleted_at,
            AdapterVersion.purged_at,
            NEVER_HAD_FILES.label("never_had_files"),
        )
        .outerjoin(
            AdapterVersion,
            sa.and_(AdapterVersion.adapter_id == Adapter.id, AdapterVersion.number == (reference.version or 0)),
        )
        .where(Adapter.name == reference.name)
    ).one_or_none()
    if row is None:
        return None
    if row.purged_at is not None:
        return errors.Deleted("adapter version", str(reference), is_purged=True)
    if row.never_had_files:
        return errors.Deleted("adapter version", str(reference), never_had_files=True)
    if row.adapter_deleted_at is not None:
        return errors.Deleted("adapter", reference.name)
    return errors.Deleted("adapter version", str(reference)) if row.deleted_at is not None else None


def explain_missing(session: Session, reference: AdapterReference) -> errors.FinchError:
    """Return the error for a reference that names no present version, with what is known."""
    name = adapter_names.find_current(session, reference.name)
    reference = dataclasses.replace(reference, name=name)
    if (deletion := _find_deletion(session, reference)) is not None:
        return deletion
    rows = session.execute(
        sa.select(AdapterVersion.number, AdapterVersion.state)
        .join(AdapterVersion.adapter)
        .where(Adapter.name == name, AdapterVersion.deleted_at.is_(None))
        .order_by(AdapterVersion.number.desc())
    ).all()
    if not rows:
        return adapter_names.not_found(session, reference.name)
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
