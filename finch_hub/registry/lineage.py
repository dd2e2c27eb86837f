"""Lineage of versions as a graph: what a version was made from, and what was made from it."""

from __future__ import annotations

import collections

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import values
from finch_hub.registry.adapter_versions import get_row, select_versions, to_value
from finch_hub.registry.tables import AdapterVersion, Parent

_links = Parent.__table__


def read_graph(session: Session, reference: str, direction: values.Direction = "ancestors") -> values.LineageGraph:
    """Return a version with its ancestors, its descendants or both, including deleted ones.

    Raises:
        NotFound: the version does not exist.
    """
    root = get_row(session, reference)
    rows = {root.id: root}
    ahead: dict[int, list[int]] = {}
    if direction != "descendants":
        _load(session, root.id, rows, ahead, start=_links.c.version_id, end=_links.c.parent_id)
    if direction != "ancestors":
        _load(session, root.id, rows, ahead, start=_links.c.parent_id, end=_links.c.version_id)
    found = {root.id: root}  # nearest first
    waiting = collections.deque([root.id])
    while waiting:
        for near in ahead.get(waiting.popleft(), ()):
            if near not in found and near in rows:
                found[near] = rows[near]
                waiting.append(near)
    versions = tuple(map(to_value, found.values()))
    known = {version.reference for version in versions}
    links = tuple(
        values.ParentLink(version=version.reference, parent=parent.reference, weight=parent.weight)
        for version in versions
        for parent in version.lineage.parents
        if parent.reference in known
    )
    references: list[tuple[AdapterVersion, str | None]]  # a damaged registry may lack the row of a parent
    references = [(row, parent.reference) for row in found.values() for parent in row.parents]
    incomplete = dict.fromkeys(f"{row.adapter.name}/{row.number}" for row, parent in references if parent is None)
    return values.LineageGraph(versions=versions, links=links, incomplete=tuple(incomplete))


def _load(
    session: Session,
    root: int,
    rows: dict[int, AdapterVersion],
    ahead: dict[int, list[int]],
    *,
    start: sa.Column[int],
    end: sa.Column[int],
) -> None:
    """Add the rows that links lead to from a version, any number of links away, and what is next to each."""
    reached = sa.select(start, end, _links.c.position).where(start == root).cte(recursive=True)
    further = sa.select(start, end, _links.c.position).join(reached, start == reached.c[end.name])
    reached = reached.union(further)
    order = (reached.c[start.name], reached.c.position, reached.c[end.name])
    for link in session.execute(sa.select(reached).order_by(*order)):
        ahead.setdefault(link._mapping[start.name], []).append(link._mapping[end.name])
    others = select_versions().where(AdapterVersion.id.in_(sa.select(reached.c[end.name])))
    rows |= {row.id: row for row in session.scalars(others)}
