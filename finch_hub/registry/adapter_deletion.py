"""Deletion and restoration of versions and of whole adapters. Their rows, numbers and files stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_needs, bases
from finch_hub.registry.adapter_versions import NEVER_HAD_FILES, explain_missing, get_row, lock_adapter
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias
from finch_hub.registry.types import now
from finch_hub.registry.version_filters import numbers
from finch_hub.specs.cursors import check_limit, read_cursor, read_moment, write_cursor
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import Value

_MAX_NAMED = 20  # aliases or versions in a message
_SCOPE = "deleted adapters"  # of cursors
_IS_PRESENT = AdapterVersion.deleted_at.is_(None)


class Deletion(Value):
    """A version or an adapter that was deleted, and can be restored.

    Attributes:
        reference: `name/3` for a version, `name` for an adapter.
        versions: number of versions that were deleted at once.
    """

    reference: str
    versions: int
    deleted_at: datetime


class Extent(NamedTuple):
    """Number of versions, and the bytes of their files."""

    versions: int
    bytes: int


class Restoration(Value):
    """Versions that were restored, and why others stay deleted.

    Attributes:
        versions: references, such as `name/3`.
    """

    versions: tuple[str, ...]
    problems: tuple[str, ...] = ()


class DeletionPage(Value):
    """A page of what is deleted. `next` is the cursor of the following page, None on the last one."""

    deletions: tuple[Deletion, ...]
    next: str | None = None


def measure(session: Session, reference: AdapterReference) -> Extent:
    """Return the extent of what `delete` would delete, in one statement whatever its number of versions.

    Raises:
        NotFound: it does not exist, or is deleted already.
    """
    size = sa.and_(numbers.c.version_id == AdapterVersion.id, numbers.c.name == "metric.bytes")
    is_meant = [Adapter.name == adapter_names.find_current(session, reference.name), _IS_PRESENT]
    if reference.version is not None:
        is_meant.append(AdapterVersion.number == reference.version)
    row = session.execute(
        sa.select(sa.func.count().label("versions"), sa.func.coalesce(sa.func.sum(numbers.c.value), 0).label("bytes"))
        .select_from(AdapterVersion)
        .join(Adapter, Adapter.id == AdapterVersion.adapter_id)
        .outerjoin(numbers, size)
        .where(*is_meant)
    ).one()
    if not row.versions:
        raise explain_missing(session, reference)
    return Extent(row.versions, int(row.bytes))


def delete(session: Session, reference: AdapterReference) -> Deletion:
    """Mark a version, or an adapter with all its versions, as deleted.

    Raises:
        NotFound: it does not exist, or is deleted already.
        Conflict: aliases point at it, or unfinished jobs need it; the text has all reasons.
    """
    reference = dataclasses.replace(reference, name=lock_adapter(session, reference.name))
    if reference.version is not None:
        return _delete_version(session, reference)
    adapter = get_adapter(session, reference.name)
    if adapter.deleted_at is not None:
        raise errors.Deleted("adapter", reference.name)
    aliases = explain_aliases(session, reference.name, Alias.adapter_id == adapter.id)
    refuse(f"cannot delete adapter {reference}", [*aliases, *adapter_needs.explain_adapter(session, adapter.id)])
    # One value for all of them, by which a restoration knows which versions were not deleted before.
    deleted_at = session.scalars(sa.select(now())).one()
    session.execute(sa.update(Adapter).where(Adapter.id == adapter.id).values(deleted_at=deleted_at))
    is_of_adapter = AdapterVersion.adapter_id == adapter.id, _IS_PRESENT
    deleted = sa.update(AdapterVersion).where(*is_of_adapter).values(deleted_at=deleted_at)
    numbers = session.scalars(deleted.returning(AdapterVersion.number)).all()
    if not numbers:
        raise errors.NotFound("adapter", reference.name)
    return Deletion(reference=str(reference), versions=len(numbers), deleted_at=deleted_at)


def _delete_version(session: Session, reference: AdapterReference) -> Deletion:
    row = get_row(session, reference)
    aliases = explain_aliases(session, reference.name, Alias.version_id == row.id)
    refuse(f"cannot delete adapter {reference}", [*aliases, *adapter_needs.explain_version(session, row)])
    deleted_at = session.scalars(sa.select(now())).one()
    row.deleted_at = deleted_at
    session.flush()
    return Deletion(reference=str(reference), versions=1, deleted_at=deleted_at)


def list_restorable(session: Session, reference: AdapterReference) -> list[str]:
    """Return the trees of the versions that `restore` would restore, with its errors."""
    reference = dataclasses.replace(reference, name=adapter_names.find_current(session, reference.name))
    return [row.digest for row in _select_deleted(session, reference, get_adapter(session, reference.name))]


def restore(
    session: Session, reference: AdapterReference, *, list_damage: Callable[[str], Sequence[str] | None]
) -> Restoration:
    """Restore a deleted version, or an adapter with the versions that were deleted with it.

    Of an adapter, the versions that cannot be restored stay deleted. The caller shares the lock of the artifacts.

    Args:
        list_damage: returns what is wrong with the files of a tree, None if some of them are not stored.

    Raises:
        NotFound: there is no such version or adapter.
        Deleted: it was purged, or it is a version of a deleted adapter.
        Conflict: it is not deleted, or no version can be restored: their bases or files were removed since, or are
            damaged.
    """
    reference = dataclasses.replace(reference, name=lock_adapter(session, reference.name))
    adapter = get_adapter(session, reference.name)
    rows = _select_deleted(session, reference, adapter)
    removed = bases.hold_removed(session, {row.base_id for row in rows})
    damage = {row.number: list_damage(row.digest) for row in rows if row.digest != row.identity}
    whole = {number for number, found in damage.items() if found is not None and not found}
    kept = [row for row in rows if row.base_id not in removed and row.number in whole]
    reasons = _explain_damage(reference.name, rows, removed, damage)
    if not kept:
        refuse(f"cannot restore adapter {reference}", reasons)
    moment = session.scalars(sa.select(now())).one()
    if adapter.deleted_at is not None:  # otherwise the index would make the entries of all its versions anew
        session.execute(sa.update(Adapter).where(Adapter.id == adapter.id).values(deleted_at=None))
    for row in kept:
        row.deleted_at, row.restored_at = None, moment
    session.flush()
    return Restoration(versions=tuple(f"{reference.name}/{row.number}" for row in kept), problems=tuple(reasons))


def _explain_damage(
    name: str, rows: Sequence[AdapterVersion], removed: Mapping[int, str], damage: Mapping[int, Sequence[str] | None]
) -> list[str]:
    """Return why versions cannot be restored.

    Args:
        removed: sources of the bases that were removed, by their ids.
        damage: what is wrong with the files of versions that have some, by their numbers; None for those that are gone.
    """
    reasons = []
    for source in dict.fromkeys(removed.values()):
        named = [f"{name}/{row.number}" for row in rows if removed.get(row.base_id) == source]
        reasons.append(f"the base of {_join(named)} was removed (run `finch-hub bases add {source}` first)")
    if len(damage) < len(rows):  # no adapter was deleted at the moment of such a version, so it is the only one
        reasons.append(f"it {errors.NO_FILES} ({errors.TAKE_FILES})")
    if lost := [f"{name}/{number}" for number, found in damage.items() if found is None]:
        fix = f"purge it with `finch-hub adapters purge {lost[0]}`"
        reasons.append(f"the files of {_join(lost)} were removed since ({fix})")
    for number, found in damage.items():
        fix = f"run `finch-hub fsck`, which says what mends them, or `finch-hub adapters purge {name}/{number}`"
        reasons += [f"the files of {name}/{number} are damaged: {'; '.join(found)} ({fix})"] if found else []
    return reasons


def _select_deleted(session: Session, reference: AdapterReference, adapter: Adapter) -> Sequence[AdapterVersion]:
    query = sa.select(AdapterVersion).where(AdapterVersion.adapter_id == adapter.id)
    if reference.version is None:
        if adapter.deleted_at is None:
            raise _explain_undeleted(session, adapter)
        is_of_deletion = AdapterVersion.deleted_at == adapter.deleted_at, AdapterVersion.purged_at.is_(None)
        return session.scalars(query.where(*is_of_deletion).order_by(AdapterVersion.number)).all()
    row = get_row(session, reference, deleted=True)
    if row.purged_at is not None:
        raise errors.Deleted("adapter version", str(reference), is_purged=True)
    if row.deleted_at is None:
        raise errors.Conflict(f"cannot restore adapter {reference}: it is not deleted")
    if adapter.deleted_at is not None:
        raise errors.Deleted("adapter", reference.name)
    return session.scalars(query.where(AdapterVersion.id == row.id)).all()


def _explain_undeleted(session: Session, adapter: Adapter) -> errors.FinchError:
    """Return why an adapter that is not deleted cannot be restored."""
    rows = session.execute(
        sa.select(AdapterVersion.number, AdapterVersion.deleted_at, AdapterVersion.purged_at)
        .where(AdapterVersion.adapter_id == adapter.id, ~NEVER_HAD_FILES)
        .order_by(AdapterVersion.number)
    ).all()
    if rows and all(row.purged_at is not None for row in rows):
        return errors.Deleted("adapter", adapter.name, is_purged=True)
    what = f"cannot restore adapter {adapter.name}: it is not deleted"
    for row in rows:
        if row.deleted_at is not None and row.purged_at is None:
            fix = f"restore a version of it, as in `finch-hub adapters restore {adapter.name}/{row.number}`"
            return errors.Conflict(f"{what} ({fix})")
    return errors.Conflict(f"{what} (`finch-hub adapters list --deleted` lists what can be restored)")


def find(session: Session, *, limit: int = 100, after: str | None = None) -> DeletionPage:
    """Return a page of what is deleted and not purged, newest first: adapters, and single versions of other adapters.

    Versions that came with a bundle without their files are left out, since nobody deleted them.

    Args:
        after: cursor of the page before, None for the first page.

    Raises:
        InvalidSpec: the limit or the cursor is invalid.
    """
    check_limit(limit)
    key = None if after is None else _read_key(after)
    is_kept = AdapterVersion.deleted_at.is_not(None), AdapterVersion.purged_at.is_(None), ~NEVER_HAD_FILES
    adapters = (
        sa.select(Adapter.name, Adapter.deleted_at, Adapter.id, sa.func.count(AdapterVersion.id).label("versions"))
        .join(AdapterVersion, sa.and_(AdapterVersion.adapter_id == Adapter.id, *is_kept))
        .where(Adapter.deleted_at.is_not(None), AdapterVersion.deleted_at == Adapter.deleted_at)
        .where(*_is_behind(key, Adapter.deleted_at, Adapter.id, rank=0))
        .group_by(Adapter.id, Adapter.name, Adapter.deleted_at)
        .order_by(Adapter.deleted_at.desc(), Adapter.id.desc())
    )
    is_single = sa.or_(Adapter.deleted_at.is_(None), Adapter.deleted_at != AdapterVersion.deleted_at)
    reference = Adapter.name + "/" + sa.cast(AdapterVersion.number, sa.String())
    versions = (
        sa.select(
            reference.label("name"), AdapterVersion.deleted_at, AdapterVersion.id, sa.literal(1).label("versions")
        )
        .join_from(AdapterVersion, Adapter)
        .where(*is_kept, is_single, *_is_behind(key, AdapterVersion.deleted_at, AdapterVersion.id, rank=1))
        .order_by(AdapterVersion.deleted_at.desc(), AdapterVersion.id.desc())
    )
    queries = enumerate((adapters, versions))
    rows = [(rank, row) for rank, query in queries for row in session.execute(query.limit(limit + 1))]
    rows.sort(key=lambda found: (found[1].deleted_at, -found[0], found[1].id), reverse=True)
    deletions = (
        Deletion(reference=row.name, versions=row.versions, deleted_at=row.deleted_at) for _, row in rows[:limit]
    )
    more = None
    if len(rows) > limit:
        rank, last = rows[limit - 1]
        more = write_cursor(_SCOPE, (last.deleted_at.isoformat(), rank, last.id))
    return DeletionPage(deletions=tuple(deletions), next=more)


def _read_key(after: str) -> tuple[datetime, int, int]:
    moment, rank, number = read_cursor(_SCOPE, after, (str, int, int))
    return read_moment(moment), int(rank), int(number)


def _is_behind(
    key: tuple[datetime, int, int] | None,
    moment: sa.SQLColumnExpression[datetime | None],
    number: sa.SQLColumnExpression[int],
    *,
    rank: int,
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of rows behind a key. Of one moment, adapters are before versions."""
    if key is None:
        return []
    last, of_rank, last_number = key
    at_once = sa.false() if rank < of_rank else number < last_number if rank == of_rank else sa.true()
    return [moment <= last, sa.or_(moment < last, at_once)]


def get_adapter(session: Session, name: str) -> Adapter:
    """Return the row of an adapter, deleted or not.

    Raises:
        NotFound: there is no such adapter.
    """
    adapter = session.scalar(sa.select(Adapter).where(Adapter.name == name).execution_options(populate_existing=True))
    if adapter is None:
        raise adapter_names.not_found(session, name)
    return adapter


def explain_aliases(session: Session, name: str, is_meant: sa.ColumnElement[bool]) -> list[str]:
    """Return why aliases forbid a deletion, nothing if there are none."""
    aliases = session.scalars(sa.select(Alias.name).where(is_meant).order_by(Alias.name)).all()
    if not aliases:
        return []
    noun, them = ("alias", "the alias") if len(aliases) == 1 else ("aliases", "them")
    fix = f"move or delete {them} first, as in `finch-hub adapters alias {name} {aliases[0]} --delete`"
    return [f"it has the {noun} {_join([f'{name}@{alias}' for alias in aliases])} ({fix})"]


def refuse(what: str, reasons: Sequence[str]) -> None:
    """Refuse a change for all reasons at once.

    Raises:
        Conflict: there is a reason.
    """
    if len(reasons) == 1:
        raise errors.Conflict(f"{what}: {reasons[0]}")
    if reasons:
        raise errors.Conflict("\n".join([f"{what}: {len(reasons)} reasons", *(f"  {reason}" for reason in reasons)]))


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
