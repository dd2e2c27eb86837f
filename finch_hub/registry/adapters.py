"""Adapters: numbered versions that never change, the names that point at them, and what they descend from."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.sql.base import ExecutableOption

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Parent, Tag
from finch_hub.registry.types import insert_new, now
from finch_hub.specs.references import LATEST, AdapterReference, check_name

_By = Literal["number", "alias", "latest"]

# As plain tables: SQLAlchemy prepares entities for their relations anew with each query.
_adapters, _versions, _bases, _aliases = (
    cast(sa.Table, each.__table__) for each in (Adapter, AdapterVersion, tables.Base, Alias)
)

_ABOVE = (AdapterVersion.adapter, AdapterVersion.base)
_BESIDE = (AdapterVersion.aliases, AdapterVersion.tags, AdapterVersion.parents)
_WHOLE = (*map(joinedload, _ABOVE), *map(selectinload, _BESIDE))
_WHOLE_AT_ONCE = (*map(joinedload, _ABOVE), *map(joinedload, _BESIDE))  # for one: a row for each combination


def create_version(
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
    spec: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    card: str = "",
    tags: Iterable[str] = (),
) -> values.AdapterVersion:
    """Add the next version of an adapter; its number is never given again, not even after a deletion.

    Args:
        name: of the adapter, which need not exist.
        digest: of the stored tree of files.
        identity: hash of its cleaned configuration and its tensors.
        base_id: the registry's id of its base.

    Raises:
        InvalidReference: the name is not well formed.
        NotFound: a parent does not exist.

    """
    check_name(name)
    session.execute(insert_new(session, _adapters, "name").values(name=name))
    counted = session.execute(
        sa.update(_adapters)
        .where(_adapters.c.name == name)
        .values(versions_made=_adapters.c.versions_made + 1)
        .returning(_adapters.c.id, _adapters.c.versions_made)
    ).one()
    version = AdapterVersion(
        adapter_id=counted.id,
        number=counted.versions_made,
        digest=digest,
        identity=identity,
        base_id=base_id,
        kind=kind,
        state=state,
        job_id=job_id,
        spec=spec or {},
        metrics=metrics or {},
        train_digest=lineage.train_digest,
        validation_digest=lineage.validation_digest,
        seed=lineage.seed,
        versions=lineage.versions,
        environment=lineage.environment,
        card=card,
        tags=[Tag(name=check_name(tag, kind="tag")) for tag in sorted(set(tags))],
    )
    for position, parent in enumerate(lineage.parents):
        found = _row(session, AdapterReference.parse(parent.reference), deleted=True)
        version.parents.append(Parent(position=position, parent_id=found.id, weight=parent.weight))
    session.add(version)
    session.flush()
    return resolve(session, AdapterReference(name, version=counted.versions_made))


def resolve(session: Session, reference: AdapterReference | str) -> values.AdapterVersion:
    """Return the version that is meant by `name/3`, `name@alias` or `name`, its newest ready version.

    Raises:
        NotFound: there is no such adapter, version or alias.
        Conflict: the bare name has no version that is ready.

    """
    if isinstance(reference, str):
        reference = AdapterReference.parse(reference)
    return _version_of(_row(session, reference))


def files(session: Session, reference: str) -> values.VersionFiles:
    """Return what a job needs to use the version that `resolve` would return, at a fraction of the cost.

    Raises:
        NotFound: there is no such adapter, version or alias.
        Conflict: the bare name has no version that is ready.

    """
    wanted = AdapterReference.parse(reference)
    row = session.execute(_files(_by(wanted)), _parameters(wanted)).one_or_none()
    if row is None:
        raise _missing(session, wanted)
    base = values.Base(**{name: getattr(row, f"base_{name}") for name in values.Base.model_fields})
    return values.VersionFiles(reference=f"{row.name}/{row.number}", digest=row.digest, base=base)


def versions(session: Session, name: str, *, deleted: bool = False) -> list[values.AdapterVersion]:
    """Return the versions of an adapter, newest first.

    Raises:
        NotFound: there is no such adapter.

    """
    query = _select().where(Adapter.name == name).order_by(AdapterVersion.number.desc())
    if not deleted:
        query = query.where(AdapterVersion.deleted_at.is_(None))
    rows = session.scalars(query).all()
    if not rows:
        raise _no_adapter(session, name)
    return [_version_of(row) for row in rows]


def find(
    session: Session,
    *,
    name: str | None = None,
    tag: str | None = None,
    base: str | None = None,
    limit: int = 100,
) -> list[values.AdapterSummary]:
    """Return adapters by name, each with its newest version among those that match.

    Args:
        name: a part of the adapter's name.
        tag: that the version has.
        base: name or fingerprint of the version's base.

    """
    matching = (
        sa.select(AdapterVersion.adapter_id, sa.func.max(AdapterVersion.number).label("number"))
        .join(AdapterVersion.adapter)
        .where(AdapterVersion.deleted_at.is_(None))
        .group_by(AdapterVersion.adapter_id)
    )
    if name is not None:
        matching = matching.where(Adapter.name.icontains(name, autoescape=True))
    if tag is not None:
        matching = matching.where(AdapterVersion.tags.any(Tag.name == tag))
    if base is not None:
        matching = matching.join(AdapterVersion.base).where(
            sa.or_(tables.Base.name == base, tables.Base.fingerprint == base)
        )
    newest = matching.subquery()
    rows = session.scalars(
        _select()
        .join(
            newest,
            sa.and_(AdapterVersion.adapter_id == newest.c.adapter_id, AdapterVersion.number == newest.c.number),
        )
        .order_by(Adapter.name)
        .limit(limit)
    ).all()
    ids = [row.adapter_id for row in rows]
    ready = sa.and_(AdapterVersion.state == "ready", AdapterVersion.deleted_at.is_(None))
    counts = {
        adapter_id: (number, latest)
        for adapter_id, number, latest in session.execute(
            sa.select(
                AdapterVersion.adapter_id,
                sa.func.count(sa.case((AdapterVersion.deleted_at.is_(None), 1))),
                sa.func.max(sa.case((ready, AdapterVersion.number))),
            )
            .where(AdapterVersion.adapter_id.in_(ids))
            .group_by(AdapterVersion.adapter_id)
        )
    }
    aliases: dict[int, dict[str, int]] = {adapter_id: {} for adapter_id in ids}
    for adapter_id, alias, number in session.execute(
        sa.select(Alias.adapter_id, Alias.name, AdapterVersion.number)
        .join(Alias.version)
        .where(Alias.adapter_id.in_(ids))
        .order_by(Alias.name)
    ):
        aliases[adapter_id][alias] = number
    return [
        values.AdapterSummary(
            name=row.adapter.name,
            versions=counts[row.adapter_id][0],
            newest=_version_of(row),
            latest=counts[row.adapter_id][1],
            aliases=aliases[row.adapter_id],
        )
        for row in rows
    ]


def find_identity(session: Session, identity: str) -> list[values.AdapterVersion]:
    """Return the versions whose configuration and tensors are the same bytes, oldest first."""
    query = _select().where(AdapterVersion.identity == identity, AdapterVersion.deleted_at.is_(None))
    return [_version_of(row) for row in session.scalars(query.order_by(AdapterVersion.id))]


def set_alias(session: Session, name: str, alias: str, version: int, *, expected: int | None = None) -> None:
    """Let `name@alias` point at the version.

    Args:
        expected: the version that it must point at until now; 0 means at none; None means anywhere.

    Raises:
        NotFound: there is no such version.
        Conflict: the version is quarantined or below its retention.
        AliasMoved: the alias points elsewhere than expected.
        InvalidReference: the alias is reserved or not well formed.

    """
    check_name(alias, kind="alias")
    _lock_adapter(session, name)
    row = _row(session, AdapterReference(name, version=version))
    if row.state != "ready":
        raise errors.Conflict(f"{name}/{version} is {row.state}: no alias may point at it")
    current = session.get(Alias, (row.adapter_id, alias), options=[joinedload(Alias.version)], populate_existing=True)
    points_at = current.version.number if current else 0
    if expected is not None and points_at != expected:
        where = f"points at {name}/{points_at}" if points_at else "does not exist"
        raise errors.AliasMoved(f"{name}@{alias} {where}, not at {name}/{expected}: look again before moving it")
    if current is None:
        session.add(Alias(adapter_id=row.adapter_id, name=alias, version_id=row.id))
    else:
        session.execute(
            sa.update(Alias)
            .where(Alias.adapter_id == row.adapter_id, Alias.name == alias)
            .values(version_id=row.id, moved_at=now())
        )
    session.flush()


def delete_alias(session: Session, name: str, alias: str) -> None:
    """Remove `name@alias`.

    Raises:
        NotFound: there is no such alias.

    """
    row = _row(session, AdapterReference(name, alias=alias))
    session.execute(sa.delete(Alias).where(Alias.adapter_id == row.adapter_id, Alias.name == alias))


def tag(session: Session, reference: AdapterReference | str, *names: str) -> values.AdapterVersion:
    """Add tags to a version.

    Raises:
        NotFound: there is no such version.
        InvalidReference: a tag is not well formed.

    """
    version = resolve(session, reference)
    row = _row(session, AdapterReference(version.name, version=version.number))
    table = cast(sa.Table, Tag.__table__)
    for name in names:
        check_name(name, kind="tag")
        session.execute(insert_new(session, table, "version_id", "name").values(version_id=row.id, name=name))
    return resolve(session, AdapterReference(version.name, version=version.number))


def untag(session: Session, reference: AdapterReference | str, *names: str) -> values.AdapterVersion:
    """Remove tags from a version; those it has not, it has not afterwards either.

    Raises:
        NotFound: there is no such version.

    """
    version = resolve(session, reference)
    row = _row(session, AdapterReference(version.name, version=version.number))
    session.execute(sa.delete(Tag).where(Tag.version_id == row.id, Tag.name.in_(names)))
    return resolve(session, AdapterReference(version.name, version=version.number))


def edit_card(session: Session, reference: AdapterReference | str, card: str) -> values.AdapterVersion:
    """Replace the text of a version's model card.

    Raises:
        NotFound: there is no such version.

    """
    version = resolve(session, reference)
    row = _row(session, AdapterReference(version.name, version=version.number))
    row.card = card
    session.flush()
    return _version_of(row)


def set_state(session: Session, reference: AdapterReference | str, state: values.VersionState) -> values.AdapterVersion:
    """Quarantine a version, or let it out.

    Raises:
        NotFound: there is no such version.
        Conflict: an alias points at a version that would no longer be ready.

    """
    version = resolve(session, reference)
    _lock_adapter(session, version.name)
    row = _row(session, AdapterReference(version.name, version=version.number))
    if state != "ready":
        _refuse_aliased(row, f"become {state}")
    row.state = state
    session.flush()
    return _version_of(row)


def delete_version(session: Session, name: str, number: int) -> values.AdapterVersion:
    """Take a version out of use; its number, its row and its place in the lineage of others stay.

    Raises:
        NotFound: there is no such version.
        Conflict: an alias points at it.

    """
    _lock_adapter(session, name)
    row = _row(session, AdapterReference(name, version=number))
    _refuse_aliased(row, "be deleted")
    row.deleted_at = session.scalar(sa.select(now()))
    session.flush()
    return _version_of(row)


def lineage(session: Session, reference: AdapterReference | str) -> values.Ancestry:
    """Return a version with all that it descends from, deleted ones too.

    Raises:
        NotFound: there is no such version.

    """
    root = _row(session, AdapterReference.parse(reference) if isinstance(reference, str) else reference)
    above = sa.select(Parent.version_id, Parent.parent_id).where(Parent.version_id == root.id).cte(recursive=True)
    above = above.union(
        sa.select(Parent.version_id, Parent.parent_id).join(above, Parent.version_id == above.c.parent_id)
    )
    ids = {root.id, *session.scalars(sa.select(above.c.parent_id))}
    rows = {row.id: row for row in session.scalars(_select().where(AdapterVersion.id.in_(ids)))}
    made: dict[int, values.Ancestry] = {}

    def ancestry(version_id: int) -> values.Ancestry:
        if version_id not in made:
            row = rows[version_id]
            made[version_id] = values.Ancestry(
                version=_version_of(row),
                parents=tuple(ancestry(p.parent_id).evolve(weight=p.weight) for p in row.parents),
            )
        return made[version_id]

    return ancestry(root.id)


def children(session: Session, reference: AdapterReference | str) -> list[values.AdapterVersion]:
    """Return the versions made directly from this one, oldest first.

    Raises:
        NotFound: there is no such version.

    """
    row = _row(session, AdapterReference.parse(reference) if isinstance(reference, str) else reference)
    query = _select().where(AdapterVersion.parents.any(Parent.parent_id == row.id), AdapterVersion.deleted_at.is_(None))
    return [_version_of(child) for child in session.scalars(query.order_by(AdapterVersion.id))]


def _select(options: Sequence[ExecutableOption] = _WHOLE) -> sa.Select[AdapterVersion]:
    query = sa.select(AdapterVersion).join(AdapterVersion.adapter).options(*options)
    return query.execution_options(populate_existing=True)  # core statements and other processes change rows too


def _row(session: Session, reference: AdapterReference, *, deleted: bool = False) -> AdapterVersion:
    query = _one(_by(reference), deleted=deleted)
    row = session.scalars(query, _parameters(reference)).unique().first()
    if row is None:
        raise _missing(session, reference)
    return row


def _by(reference: AdapterReference) -> _By:
    return "number" if reference.version is not None else "alias" if reference.alias is not None else "latest"


def _parameters(reference: AdapterReference) -> dict[str, Any]:
    return {"of_name": reference.name, "of_number": reference.version, "of_alias": reference.alias}


# Every job of most kinds begins with one of these, and building it takes longer than running it.


@functools.cache
def _one(by: _By, *, deleted: bool) -> sa.Select[AdapterVersion]:
    return _only(_select(_WHOLE_AT_ONCE), by, deleted=deleted)


@functools.cache
def _files(by: _By) -> sa.Select[Any]:
    columns = [_versions.c.number, _versions.c.digest, _adapters.c.name]
    base = [_bases.c[name].label(f"base_{name}") for name in values.Base.model_fields]
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    query = sa.select(*columns, *base).select_from(joined.join(_bases, _bases.c.id == _versions.c.base_id))
    return _only(query, by, deleted=False)


def _only(query: sa.Select[Any], by: _By, *, deleted: bool) -> sa.Select[Any]:
    query = query.where(_adapters.c.name == sa.bindparam("of_name"))
    if not deleted:
        query = query.where(_versions.c.deleted_at.is_(None))
    if by == "number":
        return query.where(_versions.c.number == sa.bindparam("of_number"))
    if by == "alias":
        points_here = sa.exists().where(
            _aliases.c.version_id == _versions.c.id, _aliases.c.name == sa.bindparam("of_alias")
        )
        return query.where(points_here)
    return query.where(_versions.c.state == "ready").order_by(_versions.c.number.desc()).limit(1)


def _missing(session: Session, reference: AdapterReference) -> errors.FinchError:
    living = sa.and_(Adapter.name == reference.name, AdapterVersion.deleted_at.is_(None))
    rows = session.execute(
        sa.select(AdapterVersion.number, AdapterVersion.state)
        .join(AdapterVersion.adapter)
        .where(living)
        .order_by(AdapterVersion.number.desc())
    ).all()
    if not rows:
        return _no_adapter(session, reference.name)
    if reference.version is not None:
        return errors.NotFound("adapter version", str(reference), [f"{reference.name}/{row.number}" for row in rows])
    if reference.alias is not None:
        known = session.scalars(sa.select(Alias.name).join(Adapter, Adapter.id == Alias.adapter_id).where(
            Adapter.name == reference.name)).all()  # fmt: skip
        return errors.NotFound("alias", str(reference), [f"{reference.name}@{name}" for name in [*known, LATEST]])
    return errors.Conflict(
        f"{reference.name} has no version that is ready ({reference.name}/{rows[0].number} is {rows[0].state}):"
        " name a version to use it all the same"
    )


def _no_adapter(session: Session, name: str) -> errors.NotFound:
    return errors.NotFound("adapter", name, session.scalars(sa.select(Adapter.name).limit(1000)))


def _lock_adapter(session: Session, name: str) -> None:
    """Let changes of what may be pointed at, and of what points, wait for each other."""
    session.execute(sa.select(Adapter.id).where(Adapter.name == name).with_for_update())


def _refuse_aliased(row: AdapterVersion, what: str) -> None:
    if row.aliases:
        names = ", ".join(f"{row.adapter.name}@{alias.name}" for alias in row.aliases)
        raise errors.Conflict(f"{names} points at {row.adapter.name}/{row.number}, so it cannot {what}: move it first")


def _version_of(row: AdapterVersion) -> values.AdapterVersion:
    return values.AdapterVersion(
        name=row.adapter.name,
        number=row.number,
        digest=row.digest,
        identity=row.identity,
        base=values.Base(**{name: getattr(row.base, name) for name in values.Base.model_fields}),
        state=cast(values.VersionState, row.state),
        kind=cast(values.VersionKind, row.kind),
        job_id=row.job_id,
        spec=row.spec,
        metrics=row.metrics,
        lineage=values.Lineage(
            parents=tuple(values.ParentVersion(reference=p.reference, weight=p.weight) for p in row.parents),
            train_digest=row.train_digest,
            validation_digest=row.validation_digest,
            seed=row.seed,
            versions=row.versions,
            environment=row.environment,
        ),
        card=row.card,
        aliases=tuple(alias.name for alias in row.aliases),
        tags=tuple(tag.name for tag in row.tags),
        created_at=row.created_at,
        deleted_at=row.deleted_at,
    )
