"""History of the aliases: what each pointed at, since when, who moved it, and why."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names
from finch_hub.registry.tables import AliasMove
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import Value

_moves = AliasMove.__table__


class AliasChange(Value):
    """A change of what an alias points at.

    Attributes:
        name: name of the adapter.
        from_number: version that the alias pointed at; None if the alias did not exist.
        to_number: version that it points at since then; None if it was removed.
        who: name of the user; empty for what earlier versions of Finch Hub did.
        why: reason that the user gave.
    """

    id: int
    name: str
    alias: str
    from_number: int | None = None
    to_number: int | None = None
    at: datetime
    who: str
    why: str | None = None


def add(
    session: Session,
    adapter_id: int,
    alias: str,
    *,
    from_number: int | None,
    to_number: int | None,
    who: str,
    why: str | None,
) -> None:
    """Add a move to the transaction that makes it. It has locked the adapter, so that no move is between both."""
    row = {"from_number": from_number, "to_number": to_number, "who": who, "why": why}
    session.execute(sa.insert(_moves), {"adapter_id": adapter_id, "alias": alias} | row)


def find(session: Session, reference: str, *, limit: int = 100, after: int | None = None) -> list[AliasChange]:
    """Return the moves of one alias, `name@alias`, or of all aliases of an adapter, `name`, newest first.

    Args:
        after: number of the last move on the previous page.

    Raises:
        NotFound: there is no such adapter, or no alias of this name ever was.
        InvalidReference: the reference has a version number.
    """
    parsed = AdapterReference.parse(reference)
    if parsed.version is not None:
        raise errors.InvalidReference("a version has no history", where=reference, fix="write name or name@alias")
    adapter_id = adapter_names.find_id(session, parsed.name)
    if adapter_id is None:
        raise adapter_names.not_found(session, parsed.name)
    name = adapter_names.find_current(session, parsed.name)
    of_adapter = sa.select(_moves).where(_moves.c.adapter_id == adapter_id)
    query = of_adapter if parsed.alias is None else of_adapter.where(_moves.c.alias == parsed.alias)
    if after is not None:
        query = query.where(_moves.c.id < after)
    rows = session.execute(query.order_by(_moves.c.id.desc()).limit(limit)).all()
    if not rows and after is None and parsed.alias is not None:
        known = session.scalars(sa.select(_moves.c.alias).where(_moves.c.adapter_id == adapter_id).distinct())
        raise errors.NotFound("alias", reference, [f"{name}@{alias}" for alias in known])
    return [
        AliasChange(
            id=row.id,
            name=name,
            alias=row.alias,
            from_number=row.from_number,
            to_number=row.to_number,
            at=row.at,
            who=row.who,
            why=row.why,
        )
        for row in rows
    ]
