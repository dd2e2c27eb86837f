"""The deployment: one database with its workers and clients."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import Deployment


def find_id(session: Session) -> str:
    """Return the id of the deployment, which the migration that made its table chose at random."""
    return session.scalars(sa.select(Deployment.id)).one()
