"""Rows for a bundle: versions with their ancestors, evaluations and descriptions, as they are at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, datasets, deployment, evidence, tables, values
from finch_hub.registry.adapter_versions import get_row, select_versions, to_value
from finch_hub.registry.tables import AdapterVersion, Parent
from finch_hub.registry.types import json_shape, one_of, read_document
from finch_hub.specs.bundles import (
    MAX_ALL_FORMER_NAMES,
    MAX_FORMER_NAMES,
    BundledAdapter,
    BundledEvaluation,
    to_milliseconds,
)
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.references import AdapterReference

_links, _adapters = Parent.__table__, tables.Adapter.__table__
_evaluations, _former = tables.Evaluation.__table__, tables.FormerName.__table__


@dataclass(frozen=True, kw_only=True)
class BundledRows:
    """What the registry knows about the versions of a bundle.

    Attributes:
        hub: id of the deployment.
        chosen: references of the versions that were named.
        versions: these and all their ancestors, also deleted ones, by name and number.
        evaluations: evaluations by reference, oldest first.
        samples: digests of sample answers by reference.
        data_licenses: licenses of training data by digest.
    """

    hub: str
    chosen: frozenset[str]
    versions: tuple[values.AdapterVersion, ...]
    adapters: tuple[BundledAdapter, ...]
    evaluations: dict[str, tuple[BundledEvaluation, ...]]
    evidence: dict[str, Evidence]
    samples: dict[str, str]
    data_licenses: dict[str, str]


def read(session: Session, references: Sequence[str]) -> BundledRows:
    """Return the versions that references name, with their ancestors. A bare name stands for all versions.

    Raises:
        NotFound: there is no such adapter, version or alias.
        Damaged: rows of them are missing, or documents cannot be read.
    """
    chosen: dict[int, str] = {}
    for reference in map(AdapterReference.parse, references):
        if reference.version is None and reference.alias is None:
            chosen |= _find_versions(session, reference.name)
        else:
            row = get_row(session, reference)
            chosen[row.id] = f"{row.adapter.name}/{row.number}"
    ids, new = set(chosen), set(chosen)
    while new:
        parents = session.scalars(sa.select(_links.c.parent_id).where(one_of(_links.c.version_id, sorted(new)))).all()
        if not all(isinstance(parent, int) for parent in parents):  # SQLite stores anything
            refuse([errors.Problem(what="a version was made of something that is not in the registry")])
        new = set(parents) - ids
        ids |= new
    rows = session.scalars(select_versions().where(one_of(AdapterVersion.id, sorted(ids)))).all()
    names = {row.id: f"{row.adapter.name}/{row.number}" for row in rows}
    adapters = _describe_adapters(session, {row.adapter.name for row in rows})
    measured = {reference: evidence.find(session, reference) for reference in names.values()}
    versions = _read_whole(session, rows, ids, measured)
    evaluated = read_evaluations(session, sorted(ids))
    trained_on = {row.train_digest for row in rows if row.train_digest is not None}
    return BundledRows(
        data_licenses=datasets.list_licenses(session, sorted(trained_on)),
        evidence={reference: known for reference, (known, _) in measured.items() if not known.is_empty},
        samples={reference: samples for reference, (_, samples) in measured.items() if samples is not None},
        hub=deployment.find_id(session),
        chosen=frozenset(chosen.values()),
        versions=tuple(sorted(versions, key=lambda version: (version.name, version.number))),
        adapters=adapters,
        evaluations={names[row]: found for row, found in evaluated.items()},
    )


def _describe_adapters(session: Session, names: Set[str]) -> tuple[BundledAdapter, ...]:
    query = sa.select(_adapters.c.id, _adapters.c.name, _adapters.c.description).order_by(_adapters.c.name)
    described = session.execute(query.where(one_of(_adapters.c.name, sorted(names)))).all()
    former: dict[int, list[str]] = {row.id: [] for row in described}
    is_meant = one_of(_former.c.adapter_id, sorted(former))
    newest_first = sa.select(_former).where(is_meant).order_by(_former.c.renamed_at.desc(), _former.c.name)
    for row in session.execute(newest_first.limit(MAX_ALL_FORMER_NAMES)):
        former[row.adapter_id].append(row.name)
    newest = {adapter_id: tuple(sorted(names[:MAX_FORMER_NAMES])) for adapter_id, names in former.items()}
    return tuple(
        BundledAdapter(name=row.name, description=row.description, former_names=newest[row.id]) for row in described
    )


def _read_whole(
    session: Session, rows: Sequence[AdapterVersion], ids: Set[int], measured: Mapping[str, tuple[Evidence, str | None]]
) -> list[values.AdapterVersion]:
    """Return versions, unless a bundle would lack something that the registry had.

    Raises:
        Damaged: rows of them are missing, or documents cannot be read.
    """
    problems: list[errors.Problem] = []
    versions: list[values.AdapterVersion] = []
    for row in rows:
        where = f"{row.adapter.name}/{row.number}"
        documents = {name: getattr(row, name) for name in ("spec", "metrics", "versions", "environment")}
        lost = [name for name, document in documents.items() if not isinstance(document, dict)]
        lost += ["evidence"] if measured[where][0].absence == "unreadable" else []
        problems += [errors.Problem(where=where, what=f"its {name} cannot be read") for name in lost]
        try:
            versions.append(to_value(row))
        except errors.InvalidSpec as error:
            problems += [errors.Problem(where=f"{where}: {found.where}", what=found.what) for found in error.problems]
        except errors.Damaged as error:  # the row of its base is missing
            problems.append(errors.Problem(what=str(error)))
    if missing := ids - {row.id for row in rows}:
        what = f"the registry lacks {len(missing)} of the versions that others were made of"
        problems.append(errors.Problem(what=what))
    is_wrong = one_of(_evaluations.c.version_id, sorted(ids)), json_shape(_evaluations.c.metrics) != "object"
    if session.scalar(sa.select(sa.exists().where(*is_wrong))):
        problems.append(errors.Problem(what="the metrics of an evaluation cannot be read"))
    refuse(problems)
    return versions


def refuse(problems: Sequence[errors.Problem]) -> None:
    """Refuse to bundle damaged versions.

    Raises:
        Damaged: there are problems.
    """
    if problems:
        what = "cannot bundle damaged versions (run `finch-hub fsck`):"
        raise errors.Damaged("\n  ".join([what, *errors.list_problems(problems)]))


def _find_versions(session: Session, name: str) -> dict[int, str]:
    """Return the references of all versions of an adapter by the ids of their rows.

    Raises:
        NotFound: there is no such adapter, or it has no versions.
    """
    current, is_there = adapter_names.find_current(session, name), AdapterVersion.deleted_at.is_(None)
    rows = session.scalars(select_versions().where(tables.Adapter.name == current, is_there)).all()
    if not rows:
        raise adapter_names.not_found(session, name)
    return {row.id: f"{current}/{row.number}" for row in rows}


def read_evaluations(session: Session, ids: Sequence[int]) -> dict[int, tuple[BundledEvaluation, ...]]:
    """Return the evaluations of versions, oldest first, by the ids of their rows."""
    found: dict[int, tuple[BundledEvaluation, ...]] = {}
    query = (
        sa.select(_evaluations)
        .where(one_of(_evaluations.c.version_id, ids))
        .order_by(_evaluations.c.created_at, _evaluations.c.dataset_digest, _evaluations.c.evaluator)
    )
    for row in session.execute(query):
        evaluation = BundledEvaluation(
            dataset=row.dataset_digest,
            evaluator=row.evaluator,
            metrics=read_document(row.metrics),
            created_at=to_milliseconds(row.created_at),
        )
        found[row.version_id] = (*found.get(row.version_id, ()), evaluation)
    return found
