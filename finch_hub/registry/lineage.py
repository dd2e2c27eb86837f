"""Lineage: the versions that a version was made from."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import values
from finch_hub.registry.tables import AdapterVersion, Parent
from finch_hub.registry.version_rows import get_row, select_versions, to_value


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
