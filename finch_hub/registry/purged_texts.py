"""Texts of bundles that may quote what was purged here. They are those that a purge of a data set searches.

A purge deletes the rows, so nothing can tell later whether a text quotes one. So texts are held back by the lineage.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import values
from finch_hub.registry.tables import Adapter, AdapterVersion, Dataset, Parent
from finch_hub.registry.types import one_of
from finch_hub.specs.annotations import Tag
from finch_hub.specs.bundles import BundledEvaluation, BundledVersion, Manifest
from finch_hub.specs.value import JsonObject

_adapters, _versions = Adapter.__table__, AdapterVersion.__table__
_datasets, _lineage = Dataset.__table__, Parent.__table__
_Key = TypeVar("_Key", int, str)
_READING = "record of how rows were read"
_PLAIN = re.compile(r"[\w.-]{1,64}", re.ASCII)  # the name of a figure, and not a sentence


@dataclass(frozen=True, kw_only=True)
class PurgedData:
    """What this hub has purged, as far as a bundle tells of it.

    Attributes:
        digests: digests of purged data sets.
        versions: references in the bundle of versions that were made of such data, directly or through their parents.
    """

    digests: frozenset[str]
    versions: frozenset[str]

    def clean(self, version: BundledVersion) -> BundledVersion:
        """Return a version without the texts that may quote purged data. Numbers stay."""
        if version.reference in self.versions:
            return version.model_copy(
                update={
                    "tags": tuple(text for text in version.tags if not Tag.parse(text).value),
                    "notes": "",
                    "card": "",
                    "card_edited_at": None,
                    "spec": {name: value for name, value in version.spec.items() if name != "reading"},
                    "metrics": _keep_numbers(version.metrics),
                    "evaluations": tuple(map(_clean_evaluation, version.evaluations)),
                    "evidence": None,
                    "samples": None,
                }
            )
        if self.digests.isdisjoint(evaluation.dataset for evaluation in version.evaluations):
            return version
        cleaned = (_clean_evaluation(e) if e.dataset in self.digests else e for e in version.evaluations)
        return version.model_copy(update={"evaluations": tuple(cleaned)})


def find(session: Session, manifest: Manifest, rows: Mapping[str, int]) -> PurgedData:
    """Return what this hub has purged of the data of a bundle's versions.

    Args:
        rows: ids of the rows of versions that are here, by their reference in the bundle.
    """
    digests = frozenset(session.scalars(sa.select(_datasets.c.digest).where(_datasets.c.purged_at.is_not(None))))
    if not digests:
        return PurgedData(digests=digests, versions=frozenset())
    here = _find_descendants(session, rows.values())
    children: dict[str, list[str]] = {}
    found: set[str] = set()
    for version in manifest.versions:
        if digests & {version.train_digest, version.validation_digest} or rows.get(version.reference) in here:
            found.add(version.reference)
        for parent in version.parents:
            children.setdefault(parent.reference, []).append(version.reference)
    found = _add_descendants(found, children)
    return PurgedData(digests=digests, versions=frozenset(found))


def _find_descendants(session: Session, ids: Collection[int]) -> set[int]:
    """Return those of some versions here that were made of purged data, through any number of parents."""
    asked = sa.select(_versions.c.id).where(one_of(_versions.c.id, sorted(ids)))
    found = set(session.scalars(_select_made_of_purged(asked)))
    if not found:
        return found
    above = _select_ancestors(asked)
    links = sa.select(_lineage.c.version_id, _lineage.c.parent_id).join(above, above.c.id == _lineage.c.version_id)
    children: dict[int, list[int]] = {}
    for link in session.execute(links):
        children.setdefault(link.parent_id, []).append(link.version_id)
    return _add_descendants(found, children) & set(ids)


def _add_descendants(found: set[_Key], children: Mapping[_Key, Collection[_Key]]) -> set[_Key]:
    """Add all descendants of what was found, and return it."""
    waiting = list(found)
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def _select_ancestors(asked: sa.Select[int]) -> sa.CTE:
    """Return the ids of versions with those of all that they were made from.

    Few versions are asked about, and most of a hub can descend from purged data. So nothing looks for descendants.
    """
    reached = asked.cte(recursive=True)
    parents = sa.select(_lineage.c.parent_id).join(reached, _lineage.c.version_id == reached.c.id)
    return reached.union(parents)


def _select_made_of_purged(asked: sa.Select[int]) -> sa.Select[int]:
    """Return the query of the ids of versions, and of all that they were made from, whose own data was purged."""
    is_of_version = _datasets.c.digest.in_([_versions.c.train_digest, _versions.c.validation_digest])
    is_purged = sa.exists().where(is_of_version, _datasets.c.purged_at.is_not(None)).correlate(_versions)
    above = _select_ancestors(asked)
    return sa.select(_versions.c.id).join(above, above.c.id == _versions.c.id).where(is_purged)


def explain_description(session: Session, name: str) -> str | None:
    """Return why an adapter here gets no description from a bundle, None if it may get one."""
    of_adapter = (
        sa.select(_versions.c.id)
        .join(_adapters, _adapters.c.id == _versions.c.adapter_id)
        .where(_adapters.c.name == name)
    )
    if session.scalar(_select_made_of_purged(of_adapter).limit(1)) is not None:
        return "since it may quote data that was purged here"
    if session.scalar(of_adapter.where(_versions.c.purged_at.is_not(None)).limit(1)) is not None:
        return "since versions of it were purged here"
    return None


def name_held_back(
    given: BundledVersion,
    clean: BundledVersion,
    reference: str,
    here: values.AdapterVersion | None,
    evaluations: Collection[BundledEvaluation],
    *,
    is_new: bool,
) -> Iterator[str]:
    """Yield a sentence with the texts of a version that were held back and are not here.

    Args:
        given: the version as the bundle has it.
        clean: the version without what is held back.
        reference: the version in this hub.
        here: the version in this hub; None for one that has no files here.
        evaluations: its evaluations in this hub.
        is_new: whether the bundle brings the version, or its files.
    """
    if given is clean:
        return
    held = []
    if {*given.tags} - {*clean.tags} - {*(here.tags if here else ())}:
        held.append("tag values")
    if given.notes not in (clean.notes, here.notes if here else ""):
        held.append("notes")
    if given.card_edited_at != clean.card_edited_at and given.card != (here.card if here else ""):
        held.append("edited card")
    if is_new:
        names = {"metrics": "texts of figures", "spec": _READING}
        names |= {"evidence": "evidence", "samples": "sample answers"}
        held += [text for name, text in names.items() if getattr(given, name) != getattr(clean, name)]
    pairs = zip(given.evaluations, clean.evaluations, strict=True)
    if count := sum(whole != cleaned and whole not in evaluations for whole, cleaned in pairs):
        held.append("texts of an evaluation" if count == 1 else f"texts of {count:,} evaluations")
    if held:
        *first, last = held
        listed = f"{', '.join(first)} and {last}" if first else last
        what = "it" if held in (["edited card"], ["evidence"], [_READING]) else "they"
        yield f"no {listed} of {reference}, since {what} may quote data that was purged here"


def _clean_evaluation(evaluation: BundledEvaluation) -> BundledEvaluation:
    return evaluation.model_copy(update={"metrics": _keep_numbers(evaluation.metrics)})


def _keep_numbers(figures: JsonObject) -> JsonObject:
    return {name: value for name, value in figures.items() if _PLAIN.fullmatch(name) and _is_without_text(value)}


def _is_without_text(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_PLAIN.fullmatch, value)) and _are_without_text(value.values())
    return _are_without_text(value) if isinstance(value, list) else not isinstance(value, str)


def _are_without_text(values: Iterable[Any]) -> bool:
    return all(map(_is_without_text, values))
