"""Lock between those who refer to stored artifacts and those who remove artifacts that nobody refers to.

Who registers a data set or a version shares the lock until the commit. Who removes artifacts owns it while it looks for
references and removes. So a removal sees every reference, or the registration sees that the artifact is gone. On SQLite
the write lock of a transaction does the same.

Names have locks of their own. In all transactions, a name is locked before this lock is taken, and both before rows of
adapters. In another order, two transactions could wait for each other.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

_KEY = 0x66696E6369
_SHARE = sa.text(f"SELECT pg_advisory_xact_lock_shared({_KEY})")
_OWN = sa.text(f"SELECT pg_advisory_xact_lock({_KEY})")
_OWN_NAME = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, :seed))")


def share(session: Session) -> None:
    """Keep artifacts from being removed until the commit. Others may share the lock."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_SHARE)


def own(session: Session) -> None:
    """Wait for those who share the lock, and keep them out until the commit."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_OWN)


def own_name(session: Session, name: str) -> None:
    """Keep others from giving a name to an adapter, a base or a data set until the commit."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_OWN_NAME, {"name": name, "seed": _KEY})
