"""Base models, identified by their fingerprints."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, artifact_lock, audit, tables, values
from finch_hub.registry.types import insert_new, now, one_of
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.bundles import BundledBase
from finch_hub.specs.options import write_options

bases = tables.Base.__table__
_COLUMNS = [bases.c[name] for name in values.Base.model_fields]
_IS_THERE = bases.c.removed_at.is_(None)
_SELECT_ALL = sa.select(*_COLUMNS).where(_IS_THERE).order_by(bases.c.id.desc())
_MAX_NAMED = 20  # versions or jobs in a message


def add(
    session: Session,
    base: BaseDescription,
    *,
    rename: bool = False,
    replace: bool = False,
    earlier_fingerprint: str | None = None,
    job_id: str | None = None,
    license_given: bool = False,
) -> values.Base:
    """Register a base, or update the location of a known base with that fingerprint.

    Args:
        job_id: the job that registers its base, for the audit; None if a user does.
        license_given: a user gave the license, so a known base takes it. That of its files counts if it has none.
        earlier_fingerprint: of the same files in an earlier scheme. A base that has it gets the new one.
        rename: the name was chosen by a user, so a known base takes it. A chosen name belongs to one base only.
        replace: take the chosen name from another base, whose fingerprint then becomes its name, and rename a base
            that has another chosen name.

    Raises:
        Conflict: another base has the chosen name, or the base has another one.
    """
    if earlier_fingerprint is not None and base.fingerprint not in fingerprints(session):
        is_earlier = bases.c.fingerprint == earlier_fingerprint
        session.execute(sa.update(bases).where(is_earlier).values(fingerprint=base.fingerprint))
    if rename:
        _free_name(session, base, replace=replace)
        if not replace:
            _check_unnamed(session, base)
    elif base.fingerprint not in fingerprints(session):
        try:
            _free_name(session, base, replace=False)
        except errors.Conflict:  # nobody has chosen the name for this base
            base = base.evolve(name=base.fingerprint)
    insert = insert_new(session, bases, "fingerprint").values(base.model_dump()).returning(bases.c.id)
    is_new = session.scalar(insert) is not None
    if is_new and job_id is not None:
        details = {"source": base.source, "revision": base.revision, "fingerprint": base.fingerprint}
        audit.add_of_job(session, job_id, action="base.add", on=base.name, details=details)
    changes = base.model_dump(include={"source", "revision", "path", *(["name"] if rename else [])})
    if base.public_id is not None:  # otherwise an earlier one stays
        changes["public_id"] = base.public_id
    licensed = {"license": base.license, "license_link": base.license_link}
    if license_given:
        changes |= licensed
    elif base.license is not None:
        set_license(session, base.fingerprint, base.license, base.license_link)
    # It waits for a removal that is not committed, so the next statement sees what that did.
    session.execute(sa.update(bases).where(bases.c.fingerprint == base.fingerprint).values(changes))
    is_removed = bases.c.fingerprint == base.fingerprint, bases.c.removed_at.is_not(None)
    session.execute(sa.update(bases).where(*is_removed).values(removed_at=None, **base.model_dump()))
    return get(session, base.fingerprint)


def set_license(session: Session, fingerprint: str, license: str, link: str | None) -> None:  # noqa: A002
    """Record the license of a base of which none is known."""
    is_unknown = bases.c.fingerprint == fingerprint, bases.c.license.is_(None)
    session.execute(sa.update(bases).where(*is_unknown).values(license=license, license_link=link))


def find_or_add(session: Session, base: BundledBase, *, adapters: Collection[str] = ()) -> int:
    """Return the id of the base of a bundle. One that is new here is added without files.

    A base that is here stays as it is. A new one takes no name from another one: its fingerprint is its name then. Its
    source is no repository id, so that whoever names a repository does not get it.

    Args:
        adapters: names that adapters get in the same transaction.
    """
    is_same = bases.c.fingerprint == base.fingerprint
    known = session.execute(_hold(is_same, bases.c.id, bases.c.removed_at)).one_or_none()
    if known is not None and known.removed_at is None:
        return int(known.id)
    artifact_lock.own_name(session, base.name)
    is_named = sa.select(bases.c.id).where(bases.c.name == base.name, ~is_same)
    is_taken = session.scalar(is_named.limit(1)) is not None or adapter_names.find_id(session, base.name) is not None
    is_taken = is_taken or base.name in adapters
    name = base.fingerprint if is_taken else base.name
    fields = base.columns | {"name": name, "source": base.source, "path": None, "removed_at": None}
    if known is not None:
        session.execute(sa.update(bases).where(is_same).values(fields))
    else:
        session.execute(insert_new(session, bases, "fingerprint").values(fields))
    return int(session.scalars(sa.select(bases.c.id).where(is_same)).one())


def lock_rows(session: Session, fingerprints: Collection[str]) -> None:
    """Lock the rows of bases until the commit, in one order, to change them."""
    rows = sa.select(bases.c.id).where(one_of(bases.c.fingerprint, sorted(fingerprints))).order_by(bases.c.id)
    session.execute(rows.with_for_update(key_share=True))


def hold(session: Session, base: values.Base) -> values.Base:
    """Keep a base from being removed until the commit of a version for it, and return it as it is now.

    Raises:
        Conflict: it was removed.
    """
    row = session.execute(_hold(bases.c.fingerprint == base.fingerprint, *_COLUMNS).where(_IS_THERE)).one_or_none()
    if row is None:
        what = f"base {base.name} was removed meanwhile"
        raise errors.Conflict(f"{what} (add it again with `finch-hub bases add {base.source}`)")
    return values.Base(**row._mapping)


def hold_removed(session: Session, ids: Collection[int]) -> dict[int, str]:
    """Keep bases from being removed until the commit.

    Return the sources of those that were removed before, by the ids of the bases.
    """
    rows = session.execute(_hold(one_of(bases.c.id, ids), bases.c.id, bases.c.source, bases.c.removed_at))
    return {row.id: row.source for row in rows if row.removed_at is not None}


def _hold(is_meant: sa.ColumnElement[bool], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return a query of bases that a removal waits for. Changes of a base do not wait."""
    query = sa.select(*columns).where(is_meant).order_by(bases.c.id)
    return query.with_for_update(read=True, key_share=True)


def free_source(session: Session, base: BaseDescription) -> None:
    """Take the name of its source from other states of it, because the source has the files of this base now."""
    others = bases.c.source == base.source, bases.c.name == base.source, bases.c.fingerprint != base.fingerprint
    session.execute(sa.update(bases).where(*others).values(name=bases.c.fingerprint))


def _free_name(session: Session, base: BaseDescription, *, replace: bool) -> None:
    """Take the name of a base from others, whose fingerprint becomes their name.

    Without `replace`, only another state of the same source loses it.
    """
    taken = bases.c.name == base.name, bases.c.fingerprint != base.fingerprint
    is_freed = (*taken,) if replace else (*taken, bases.c.source == base.source, bases.c.source == base.name)
    session.execute(sa.update(bases).where(*is_freed).values(name=bases.c.fingerprint))
    if session.scalar(sa.select(bases.c.id).where(bases.c.name == base.name)) is None:
        adapter_names.check_free_of_adapters(session, base.name)
    if other := session.scalar(sa.select(bases.c.fingerprint).where(*taken)):
        raise errors.Conflict(
            f"base name {base.name!r} is taken: another base with fingerprint {other[:12]}… has it"
            f" (choose another name, or take it with {write_options({'replace': True})})"
        )


def _check_unnamed(session: Session, base: BaseDescription) -> None:
    """Check that a user gave a base no other name; scripts that use such a name would no longer find the base."""
    known = session.execute(
        sa.select(*_COLUMNS).where(bases.c.fingerprint == base.fingerprint, _IS_THERE)
    ).one_or_none()
    # Without a given name, a base has that of its source, or its fingerprint. Given names have no slash.
    if known is None or known.name in (base.name, known.source, known.fingerprint) or "/" in known.name:
        return
    raise errors.Conflict(
        f"these files are already base {known.name!r}: a base has one name"
        f" (use that name, or rename it with {write_options({'replace': True})})"
    )


def get(session: Session, name: str) -> values.Base:
    """Return the base with that fingerprint, or the newest base with that name.

    Raises:
        NotFound: no base has that fingerprint or name.
    """
    row = session.execute(
        sa.select(*_COLUMNS)
        .where(sa.or_(bases.c.fingerprint == name, bases.c.name == name), _IS_THERE)
        .order_by(bases.c.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise errors.NotFound("base", name, session.scalars(sa.select(bases.c.name).where(_IS_THERE)), lists_known=True)
    return values.Base(**row._mapping)


def find_source(session: Session, source: str, revision: str | None) -> values.Base | None:
    """Return the base that was fetched from a source, None if there is none.

    Args:
        revision: revision that it must have; None takes the state that is named by the source, else the newest one,
            unless its name was given to another one.
    """
    query = sa.select(*_COLUMNS).where(bases.c.source == source, _IS_THERE)
    if revision is not None:
        query = query.where(bases.c.revision == revision)
    has_name_of_source, has_lost_name = bases.c.name == source, bases.c.name == bases.c.fingerprint
    newest = query.order_by(has_name_of_source.desc(), has_lost_name, bases.c.id.desc()).limit(1)
    row = session.execute(newest).one_or_none()
    return values.Base(**row._mapping) if row is not None else None


def find_name(session: Session, fingerprint: str) -> str | None:
    """Return the name of the base with that fingerprint, None if there is none."""
    return session.scalar(sa.select(bases.c.name).where(bases.c.fingerprint == fingerprint, _IS_THERE))


def fingerprints(session: Session) -> frozenset[str]:
    """Return the fingerprints of all bases."""
    return frozenset(session.scalars(sa.select(bases.c.fingerprint).where(_IS_THERE)))


def find(session: Session) -> list[values.Base]:
    """Return all bases, newest first."""
    return [values.Base(**row._mapping) for row in session.execute(_SELECT_ALL)]


def find_readable(session: Session) -> tuple[list[values.Base], dict[int, str]]:
    """Return the bases that `find` returns, and of those whose rows are damaged, why they cannot be read, by id."""
    found: list[values.Base] = []
    damaged: dict[int, str] = {}
    for row in session.execute(_SELECT_ALL):
        try:
            found.append(values.Base(**row._mapping))
        except errors.InvalidSpec as error:
            damaged[row.id] = "; ".join(f"{problem.where} {problem.what}" for problem in error.problems)
    return found, damaged


def list_paths(session: Session) -> dict[str, str]:
    """Return the path of each base that has one, by the base's name."""
    query = sa.select(bases.c.name, bases.c.path).where(bases.c.path.is_not(None), _IS_THERE)
    query = query.order_by(bases.c.id)
    return {row.name: row.path for row in session.execute(query)}


def remove(session: Session, name: str, *, copies: Collection[str] = ()) -> values.Base:
    """Remove a base with the figures of the base alone, and return it as it was.

    If deleted versions were made for it, their lineage keeps it. No query finds it then.

    Args:
        copies: other sources that have the files of the base.

    Raises:
        NotFound: no base has that fingerprint or name.
        Conflict: versions were made for it, or an unfinished job names it.
    """
    base = get(session, name)
    session.execute(sa.select(bases.c.id).where(bases.c.id == base.id).with_for_update())
    if users := [*_list_versions(session, base), *_list_jobs(session, {base.source, *copies})]:
        named, verb = ", ".join(users[:_MAX_NAMED]), "needs" if len(users) == 1 else "need"
        fix = "delete the versions, and cancel the jobs or wait until they end"
        raise errors.Conflict(f"cannot remove base {base.name}: {named} {verb} it ({fix})")
    evaluations, versions = tables.Evaluation.__table__, tables.AdapterVersion.__table__
    is_of_base = evaluations.c.base_id == base.id, evaluations.c.version_id.is_(None)
    session.execute(sa.delete(evaluations).where(*is_of_base))
    if session.scalar(sa.select(versions.c.id).where(versions.c.base_id == base.id).limit(1)) is None:
        session.execute(sa.delete(bases).where(bases.c.id == base.id))
    else:
        changes = {"removed_at": now(), "name": bases.c.fingerprint, "path": None}
        session.execute(sa.update(bases).where(bases.c.id == base.id).values(**changes))
    return base


def _list_versions(session: Session, base: values.Base) -> list[str]:
    rows = session.execute(
        sa.select(tables.Adapter.name, tables.AdapterVersion.number)
        .join(tables.AdapterVersion.adapter)
        .where(tables.AdapterVersion.base_id == base.id, tables.AdapterVersion.deleted_at.is_(None))
        .order_by(tables.AdapterVersion.id)
        .limit(_MAX_NAMED)
    )
    return [f"adapter {row.name}/{row.number}" for row in rows]


def _list_jobs(session: Session, sources: Collection[str]) -> list[str]:
    """Return the unfinished jobs that name a source, with whatever revision."""
    jobs = tables.jobs
    rows = session.execute(
        sa.select(jobs.c.id, jobs.c.base_key).where(jobs.c.finished_at.is_(None), jobs.c.base_key.is_not(None))
    )
    return [f"job {row.id}" for row in rows if _source_of(row.base_key) in sources]


def list_needed_sources(session: Session) -> frozenset[str]:
    """Return the sources of the bases of unfinished jobs, registered or not."""
    jobs = tables.jobs
    is_needed = jobs.c.finished_at.is_(None), jobs.c.base_key.is_not(None)
    keys = session.scalars(sa.select(jobs.c.base_key).where(*is_needed).distinct())
    return frozenset(_source_of(str(key)) for key in keys)


def _source_of(base_key: str) -> str:
    return base_key.rpartition("@")[0] or base_key  # the key of a source with the most characters ends with it
