"""Adapter versions and their lineage. A version is numbered and immutable, except for its tags and model card."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapters, values
from finch_hub.registry.tables import Adapter, AdapterVersion, Parent, Tag
from finch_hub.registry.types import insert_new, now
from finch_hub.registry.version_rows import adapter_not_found, get_files_row, get_row, select_versions, to_value
from finch_hub.specs.references import AdapterReference, check_name
from finch_hub.specs.value import JsonObject


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
    tags: Iterable[str] = (),
) -> values.AdapterVersion:
    """Add the next version of an adapter. Its number is never reused, not even after a deletion.

    Args:
        name: adapter, which need not exist yet.
        digest: digest of the stored tree of files.
        identity: hash of the cleaned configuration and the tensors.
        base_id: id of the base in the registry.

    Raises:
        InvalidReference: the name is not well formed.
        NotFound: a parent does not exist.
    """
    check_name(name)
    adapter = adapters.count_version(session, name)
    version = AdapterVersion(
        adapter_id=adapter.id,
        number=adapter.versions_made,
        digest=digest,
        identity=identity,
        base_id=base_id,
        kind=kind,
        state=state,
        job_id=job_id,
        spec=spec or {},
        metrics=metrics or {},
        card=card,
        tags=[Tag(name=check_name(tag, kind="tag")) for tag in sorted(set(tags))],
        **lineage.model_dump(exclude={"parents"}),
    )
    for position, parent in enumerate(lineage.parents):
        row = get_row(session, parent.reference, deleted=True)
        version.parents.append(Parent(position=position, parent_id=row.id, weight=parent.weight))
    session.add(version)
    session.flush()
    return resolve(session, AdapterReference(name, version=adapter.versions_made))


def resolve(session: Session, reference: AdapterReference | str) -> values.AdapterVersion:
    """Return the version for `name/3`, `name@alias` or `name`, which means its newest ready version.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the reference is a bare name, and the adapter has no ready version.
    """
    return to_value(get_row(session, reference))


def resolve_files(session: Session, reference: str) -> values.VersionFiles:
    """Return files and base of the version that `resolve` returns, at a fraction of the cost.

    Raises:
        NotFound: the adapter, version or alias does not exist.
        Conflict: the reference is a bare name, and the adapter has no ready version.
    """
    row = get_files_row(session, AdapterReference.parse(reference))
    base = values.Base(**{name: getattr(row, f"base_{name}") for name in values.Base.model_fields})
    return values.VersionFiles(reference=f"{row.name}/{row.number}", digest=row.digest, base=base)


def find(session: Session, name: str) -> list[values.AdapterVersion]:
    """Return the versions of an adapter, newest first.

    Raises:
        NotFound: the adapter does not exist.
    """
    query = select_versions().where(Adapter.name == name, AdapterVersion.deleted_at.is_(None))
    rows = session.scalars(query.order_by(AdapterVersion.number.desc())).all()
    if not rows:
        raise adapter_not_found(session, name)
    return [to_value(row) for row in rows]


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
    session.execute(sa.delete(Tag).where(Tag.version_id == version.id, Tag.name.in_(names)))
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


def delete(session: Session, name: str, number: int) -> values.AdapterVersion:
    """Mark a version as deleted. Its number, its row and its place in other versions' lineage stay.

    Raises:
        NotFound: the version does not exist.
        Conflict: the version has an alias.
    """
    adapters.lock(session, name)
    row = get_row(session, AdapterReference(name, version=number))
    if row.aliases:
        aliases = ", ".join(f"{name}@{alias.name}" for alias in row.aliases)
        raise errors.Conflict(
            f"cannot delete adapter {name}/{number}: it has the alias {aliases} (move or delete the alias first)"
        )
    row.deleted_at = session.scalar(sa.select(now()))
    session.flush()
    return to_value(row)


def get_ancestry(session: Session, reference: str) -> values.Ancestry:
    """Return a version with all its ancestors, including deleted ones.

    Raises:
        NotFound: the version does not exist.
    """
    root = get_row(session, reference)
    links = sa.select(Parent.version_id, Parent.parent_id).where(Parent.version_id == root.id).cte(recursive=True)
    links = links.union(
        sa.select(Parent.version_id, Parent.parent_id).join(links, Parent.version_id == links.c.parent_id)
    )
    ids = {root.id, *session.scalars(sa.select(links.c.parent_id))}
    rows = {row.id: row for row in session.scalars(select_versions().where(AdapterVersion.id.in_(ids)))}
    done: dict[int, values.Ancestry] = {}

    def build(version_id: int) -> values.Ancestry:
        if version_id not in done:
            row = rows[version_id]
            parents = tuple(build(parent.parent_id).evolve(weight=parent.weight) for parent in row.parents)
            done[version_id] = values.Ancestry(version=to_value(row), parents=parents)
        return done[version_id]

    return build(root.id)


def _reload(session: Session, row: AdapterVersion) -> values.AdapterVersion:
    return resolve(session, AdapterReference(row.adapter.name, version=row.number))
