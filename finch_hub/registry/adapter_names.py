"""Names of adapters: new ones, former ones, and their changes. Adapters and bases share one space of names."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from finch_hub import errors
from finch_hub.registry import artifact_lock
from finch_hub.registry.tables import Adapter, Base, FormerName
from finch_hub.registry.types import insert_new, one_of
from finch_hub.specs.annotations import check_description
from finch_hub.specs.references import MAX_LENGTH, AdapterReference, check_adapter_name, check_new_name

_adapters, _bases, _former = Adapter.__table__, Base.__table__, FormerName.__table__


class NextVersion(NamedTuple):
    """Place of a new version: its adapter, the name that this has now, and its number."""

    adapter_id: int
    name: str
    number: int


class NamedAdapter(NamedTuple):
    """An adapter that has or had a name, with the name that it has now."""

    id: int
    name: str
    is_deleted: bool


def find_id(session: Session, name: str) -> int | None:
    """Return the id of the adapter that has or had a name, None if there is none."""
    current = sa.select(_adapters.c.id).where(_adapters.c.name == name).scalar_subquery()
    former = sa.select(_former.c.adapter_id).where(_former.c.name == name).scalar_subquery()
    adapter_id: int | None = session.scalar(sa.select(sa.func.coalesce(current, former)))
    return adapter_id


def find_all(session: Session, names: Collection[str]) -> dict[str, NamedAdapter]:
    """Return the adapters that have or had names, by these names, in one query."""
    columns = _adapters.c.id, _adapters.c.name, _adapters.c.deleted_at
    wanted = sorted(set(names))
    current = sa.select(_adapters.c.name.label("given"), sa.literal(1).label("rank"), *columns)
    former = sa.select(_former.c.name.label("given"), sa.literal(0).label("rank"), *columns)
    found = former.join(_adapters, _adapters.c.id == _former.c.adapter_id).where(one_of(_former.c.name, wanted))
    rows = session.execute(found.union_all(current.where(one_of(_adapters.c.name, wanted))).order_by("rank"))
    return {row.given: NamedAdapter(row.id, row.name, row.deleted_at is not None) for row in rows}


def find_current(session: Session, name: str) -> str:
    """Return the name that an adapter has now, for one that it had earlier. Return any other name as it is.

    A worker of an earlier version may make an adapter of a former name. The name then stands for that one.
    """
    query = sa.select(_adapters.c.name).where(_adapters.c.id == find_id(session, name))
    return session.scalar(query) or name


def list_names(session: Session, adapter_id: int) -> Sequence[str]:
    """Return the name of an adapter, then its former ones."""
    current = sa.select(_adapters.c.name, sa.literal(0).label("rank")).where(_adapters.c.id == adapter_id)
    former = sa.select(_former.c.name, sa.literal(1)).where(_former.c.adapter_id == adapter_id)
    return session.scalars(current.union_all(former).order_by("rank", "name")).all()


def check_free(session: Session, name: str) -> None:
    """Refuse a name for a new version, unless it is that of an adapter, or a new adapter can have it.

    Raises:
        InvalidReference: the name is not well formed.
        Deleted: the adapter is deleted.
        Conflict: a base has the name.
    """
    check_adapter_name(name)
    adapter_id = find_id(session, name)
    if adapter_id is None:
        _check_new(session, name)
    elif session.scalar(sa.select(_adapters.c.deleted_at).where(_adapters.c.id == adapter_id)) is not None:
        raise errors.Deleted("adapter", find_current(session, name))


def take_number(session: Session, name: str) -> NextVersion:
    """Return the place of the next version of an adapter. Make the adapter if there is none.

    It does not refuse the name of a base: whoever submits a job has checked the name, and what the job made counts.

    Raises:
        Deleted: the adapter is deleted.
    """
    taken = session.execute(_take_number(by_id=False), {"of_name": name}).one_or_none()
    if taken is None:
        if find_id(session, name) is None:
            session.execute(insert_new(session, _adapters, "name").values(name=name))
        taken = session.execute(_take_number(by_id=True), {"of_id": find_id(session, name)}).one()
    if taken.deleted_at is not None:
        raise errors.Deleted("adapter", taken.name)
    return NextVersion(taken.id, taken.name, taken.versions_made)


def rename(session: Session, name: str, new: str) -> None:
    """Rename an adapter. Its former names go on standing for it.

    Raises:
        NotFound: there is no such adapter.
        InvalidReference: the new name is not well formed.
        Conflict: another adapter has or had the new name, or a base has it.
    """
    check_adapter_name(new)
    artifact_lock.own_name(session, new)
    adapter_id = find_id(session, name)
    query = sa.select(_adapters.c.name).where(_adapters.c.id == adapter_id).with_for_update()
    current = session.scalar(query)
    if adapter_id is None or current is None:
        raise not_found(session, name)
    if new == name == current:
        raise errors.Conflict(f"adapter {name} has that name already (use {_find_free(session, new, 'lora')})")
    if new == current:  # a repetition
        return
    former = session.scalar(sa.select(_former.c.adapter_id).where(_former.c.name == new))
    is_taken = _is_adapter(session, new)
    if is_taken or former not in (None, adapter_id):
        had = "has" if is_taken else "had"
        what = f"cannot rename adapter {current}: another adapter {had} the name {new}"
        raise errors.Conflict(f"{what} (use {_find_free(session, new, 'lora')})")
    if former is None:
        _check_new(session, new)
    session.execute(sa.delete(_former).where(_former.c.name == new))
    session.execute(_former.insert().values(name=current, adapter_id=adapter_id))
    session.execute(sa.update(_adapters).where(_adapters.c.id == adapter_id).values(name=new))
    session.expire_all()


def add_former(session: Session, wanted: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Let former names of adapters in another hub stand for them here.

    Return the names of adapters by the former names that were added, and why others cannot be. Those that stand for
    their adapters already are in neither. The caller owns the former names.

    Args:
        wanted: names of adapters by former names.
    """
    known = find_all(session, {*wanted, *wanted.values()})
    is_base = one_of(_bases.c.name, sorted(wanted)), _bases.c.removed_at.is_(None)
    of_bases = set(session.scalars(sa.select(_bases.c.name).where(*is_base)))
    added: dict[str, str] = {}
    refused: dict[str, str] = {}
    for former, name in wanted.items():
        if former in known:
            if known[former].id != known[name].id:
                refused[former] = "since another adapter has or had the name"
        elif known[name].is_deleted:
            refused[former] = "since the adapter is deleted"
        elif former.isdigit():
            refused[former] = "since it is all digits"
        elif former in of_bases:
            refused[former] = "since a base has the name"
        else:
            added[former] = name
    if added:
        session.execute(
            _former.insert(), [{"name": each, "adapter_id": known[name].id} for each, name in added.items()]
        )
    return added, refused


def describe(session: Session, name: str, text: str) -> None:
    """Replace the description of an adapter.

    Raises:
        NotFound: there is no such adapter.
        InvalidInput: the text is too long.
    """
    text = check_description(text)
    change = sa.update(_adapters).where(_adapters.c.id == find_id(session, name)).values(description=text)
    if session.scalar(change.returning(_adapters.c.id)) is None:
        raise not_found(session, name)


def find_description(session: Session, name: str) -> str:
    """Return the description of an adapter, empty if it has none."""
    return session.scalar(sa.select(_adapters.c.description).where(_adapters.c.name == name)) or ""


def not_found(session: Session, name: str) -> errors.FinchError:
    """Return the error for a name that no adapter has or had, or that is the reference of a version."""
    with contextlib.suppress(errors.InvalidReference):
        reference = AdapterReference.parse(name)
        if reference.version is not None or reference.alias is not None:
            what = f"{name!r} is a version, and the name of an adapter is needed"
            return errors.InvalidReference(what, where="adapter", fix=f"write {reference.name}")
    return errors.NotFound("adapter", name, session.scalars(sa.select(_adapters.c.name).limit(1000)))


def check_free_of_adapters(session: Session, name: str) -> None:
    """Refuse a name that a user gives to a base, if an adapter has or had it.

    Raises:
        Conflict: an adapter has or had the name.
    """
    artifact_lock.own_name(session, name)
    if find_id(session, name) is not None:
        free = _find_free(session, name, "base")
        raise errors.Conflict(f"base name {name!r} is taken: an adapter has or had it (use {free})")


def _check_new(session: Session, name: str) -> None:
    check_new_name(name)
    artifact_lock.own_name(session, name)
    if _is_base(session, name):
        free = _find_free(session, name, "lora")
        raise errors.Conflict(f"adapter name {name!r} is taken: a base has it (use {free})")


def _is_base(session: Session, name: str) -> bool:
    is_there = _bases.c.name == name, _bases.c.removed_at.is_(None)
    return session.scalar(sa.select(_bases.c.id).where(*is_there).limit(1)) is not None


def _is_adapter(session: Session, name: str) -> bool:
    return session.scalar(sa.select(_adapters.c.id).where(_adapters.c.name == name)) is not None


def _find_free(session: Session, name: str, ending: str) -> str:
    """Return the first of `name-ending`, `name-ending-2` … that neither an adapter nor a base has."""
    return next(_list_free(session, name, ending))


def _list_free(session: Session, name: str, ending: str) -> Iterator[str]:
    for number in itertools.count(1):
        end = f"-{ending}" if number == 1 else f"-{ending}-{number}"
        free = f"{name[: MAX_LENGTH - len(end)]}{end}"
        if not _is_base(session, free) and find_id(session, free) is None:
            yield free


def propose(session: Session, name: str) -> Iterator[str]:
    """Yield names that a new adapter can have: the wanted one if it is free, then others that begin with it."""
    if not _is_base(session, name) and find_id(session, name) is None:
        yield name
    yield from _list_free(session, name, "lora")


def count_number(session: Session, name: str, number: int) -> int:
    """Return the id of an adapter of which a version with a number was made elsewhere.

    Raises:
        Deleted: the adapter is deleted.
    """
    made = sa.case((_adapters.c.versions_made < number, number), else_=_adapters.c.versions_made)
    change = sa.update(_adapters).where(_adapters.c.name == name).values(versions_made=made)
    row = session.execute(change.returning(_adapters.c.id, _adapters.c.deleted_at)).one()
    if row.deleted_at is not None:
        raise errors.Deleted("adapter", name)
    return int(row.id)


@functools.cache  # building it takes longer than running it
def _take_number(*, by_id: bool) -> ReturningUpdate[Any]:
    is_adapter = _adapters.c.id == sa.bindparam("of_id") if by_id else _adapters.c.name == sa.bindparam("of_name")
    change = sa.update(_adapters).where(is_adapter).values(versions_made=_adapters.c.versions_made + 1)
    return change.returning(_adapters.c.id, _adapters.c.name, _adapters.c.versions_made, _adapters.c.deleted_at)
