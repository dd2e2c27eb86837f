"""Places of the versions of a bundle in this hub, and their rows. A version is told by its identity and its birth."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import (
    adapter_names,
    adapter_versions,
    adapters,
    artifact_lock,
    audit,
    bases,
    datasets,
    purged_texts,
    search_index,
    tables,
    values,
    version_loading,
)
from finch_hub.registry.bundled_versions import read_evaluations
from finch_hub.registry.tables import Adapter, AdapterVersion, Parent
from finch_hub.registry.types import Columns, insert_new, now, one_of, read_document
from finch_hub.specs.annotations import Tag
from finch_hub.specs.bundles import (
    BundledAdapter,
    BundledEvaluation,
    BundledVersion,
    Manifest,
    Outcome,
    to_milliseconds,
)
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.value import JsonObject

_adapters, _versions = Adapter.__table__, AdapterVersion.__table__
_bases = tables.Base.__table__
_tags, _evaluations, _lineage = tables.Tag.__table__, tables.Evaluation.__table__, Parent.__table__
_evidence = tables.Evidence.__table__
_LOCK = "versions of bundles"  # no name has a space


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a version of a bundle is in this hub, or will be.

    Attributes:
        bundled: the version without the texts that are held back.
        given: the version as the bundle has it.
        row: the row that it has here; None for a new version.
        needs_files: whether its files are taken from the bundle.
    """

    bundled: BundledVersion
    given: BundledVersion
    name: str
    number: int
    outcome: Outcome
    row: sa.Row[Any] | None = None

    @property
    def reference(self) -> str:
        """Reference of the version in this hub."""
        return f"{self.name}/{self.number}"

    @property
    def needs_files(self) -> bool:
        """Whether its files are taken from the bundle."""
        return self.outcome in ("added", "completed")

    @property
    def is_deleted(self) -> bool:
        """Whether it stays a deleted version of this hub."""
        if self.row is None:
            return self.outcome == "in lineage"
        return self.outcome == "known" and self.row.deleted_at is not None


@dataclass(frozen=True, kw_only=True)
class StoredVersion:
    """Files of a version that passed the gate and are stored, and what the gate found.

    Attributes:
        card: text of the written card for searches.
        samples: its sample answers, which the caller stores.
    """

    digest: str
    state: values.VersionState
    metrics: JsonObject
    card: str
    evidence: JsonObject | None
    samples: bytes | None = None


def plan(session: Session, manifest: Manifest) -> list[Place]:
    """Return the place of each version of a bundle in this hub, in their order.

    A version that this hub has is itself, whatever its name and number here. Another one keeps its number if that is
    free in its adapter, otherwise it gets the next one.
    """
    known = _find_rows(session, manifest)
    purged = purged_texts.find(session, manifest, {reference: row.id for reference, row in known.items()})
    homes = _find_homes(session, manifest, known)
    taken = {name: set(_list_numbers(session, name)) for name in set(homes.values())}
    numbers: dict[str, int] = {}
    for version in manifest.versions:
        if version.reference not in known and version.number not in taken[homes[version.name]]:
            numbers[version.reference] = version.number
            taken[homes[version.name]].add(version.number)
    last = {name: max({0, _count_made(session, name), *taken[name]}) for name in taken}
    places = []
    for version in manifest.versions:
        row, home = known.get(version.reference), homes[version.name]
        fields: dict[str, Any] = {"bundled": purged.clean(version), "given": version}
        if row is not None:
            is_without = row.digest == row.identity and row.deleted_at is not None and row.purged_at is None
            outcome: Outcome = "completed" if is_without and version.files is not None else "known"
            if outcome == "completed" and row.adapter_deleted_at is not None:
                raise errors.Deleted("adapter", row.name)
            places.append(Place(**fields, name=row.name, number=row.number, outcome=outcome, row=row))
            continue
        if version.reference not in numbers:
            last[home] += 1
        number = numbers.get(version.reference, last[home])
        outcome = "in lineage" if version.files is None else "added"
        places.append(Place(**fields, name=home, number=number, outcome=outcome))
    return places


def _find_rows(session: Session, manifest: Manifest) -> dict[str, sa.Row[Any]]:
    """Return the rows that versions have here, by reference: of equal bytes, and made at the same moment.

    One query reads them. Hundreds of versions can have one identity, so a query for each would read the same rows.
    """
    columns = ("id", "number", "identity", "digest", "state", "created_at", "deleted_at", "purged_at")
    adapter = _adapters.c.name, _adapters.c.deleted_at.label("adapter_deleted_at")
    query: sa.Select[Any] = (
        sa.select(*(_versions.c[name] for name in columns), *adapter, _bases.c.fingerprint)
        .join(_adapters, _adapters.c.id == _versions.c.adapter_id)
        .join(_bases, _bases.c.id == _versions.c.base_id)
        .where(one_of(_versions.c.identity, sorted({version.identity for version in manifest.versions})))
        .order_by(_versions.c.id.desc())  # of equal ones, the first stays
    )
    rows = {(row.identity, row.fingerprint, to_milliseconds(row.created_at)): row for row in session.execute(query)}
    keys = ((v.reference, (v.identity, v.base, to_milliseconds(v.created_at))) for v in manifest.versions)
    return {reference: rows[key] for reference, key in keys if key in rows}


def _find_homes(session: Session, manifest: Manifest, known: Mapping[str, sa.Row[Any]]) -> dict[str, str]:
    """Return the adapter of this hub to which new versions of each adapter of a bundle go.

    It is the adapter that has the newest one of those that are here, otherwise the one of that name, otherwise the one
    of a former name that has versions of the same adapter. The name of a base gets an ending.
    """
    homes: dict[str, str] = {}
    for version in sorted(manifest.versions, key=lambda version: version.number):
        if version.reference in known:
            homes[version.name] = known[version.reference].name
    others = [adapter for adapter in manifest.adapters if adapter.name not in homes]
    named = adapter_names.find_all(session, [name for each in others for name in (each.name, *each.former_names)])
    homes |= {adapter.name: named[adapter.name].name for adapter in others if adapter.name in named}
    others = [adapter for adapter in others if adapter.name not in homes]
    origins = _find_origins(session, [named[name].id for each in others for name in each.former_names if name in named])
    hubs: dict[str, set[str]] = {adapter.name: set() for adapter in others}
    for version in manifest.versions:
        hubs.get(version.name, set()).add(version.origin.hub)
    taken = set(homes.values())
    for adapter in others:
        elsewhere = {(hub, name) for hub in hubs[adapter.name] for name in (adapter.name, *adapter.former_names)}
        for here in (named[name] for name in adapter.former_names if name in named):
            if not here.is_deleted and here.name not in taken and not origins[here.id].isdisjoint(elsewhere):
                homes[adapter.name] = here.name
                taken.add(here.name)
                break
    for adapter in others:
        if adapter.name not in homes:
            homes[adapter.name] = _choose_name(session, adapter.name, set(homes.values()))
    return homes


def _find_origins(session: Session, adapter_ids: Collection[int]) -> dict[int, set[tuple[str, str]]]:
    """Return the hubs that made the versions of adapters, with the names of the adapters there, by the ids here."""
    found: dict[int, set[tuple[str, str]]] = {adapter_id: set() for adapter_id in adapter_ids}
    if not found:
        return found
    query = sa.select(_versions.c.adapter_id, _versions.c.spec).where(one_of(_versions.c.adapter_id, sorted(found)))
    for row in session.execute(query):
        origin = read_document(row.spec).get("bundle")
        if isinstance(origin, dict):
            name, _, _ = str(origin.get("reference")).rpartition("/")
            found[row.adapter_id].add((str(origin.get("hub")), name))
    return found


def _choose_name(session: Session, name: str, taken: set[str]) -> str:
    """Return a name for a new adapter. Earlier hubs allowed names of digits only."""
    wanted = f"v{name}" if name.isdigit() else name
    for chosen in adapter_names.propose(session, wanted):
        if chosen not in taken:
            return chosen
    raise AssertionError("there is always another name")


def _list_numbers(session: Session, name: str) -> Sequence[int]:
    query = sa.select(_versions.c.number).join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    return session.scalars(query.where(_adapters.c.name == name)).all()


def _count_made(session: Session, name: str) -> int:
    return session.scalar(sa.select(_adapters.c.versions_made).where(_adapters.c.name == name)) or 0


def lock(session: Session, manifest: Manifest) -> list[Place]:
    """Return the plan of a bundle, which stays true until the commit.

    Names are locked before the artifacts, and rows last: those of bases, data sets and adapters, as all others do. If
    the rows lead to further names, since an adapter was renamed or made meanwhile, the rows are let go first.
    """
    digests = sorted({version.train_digest for version in manifest.versions if version.train_digest is not None})
    artifact_lock.own_name(session, _LOCK)
    held: set[str] = set()
    wanted = {base.name for base in manifest.bases}
    wanted |= {name for adapter in _list_used(manifest) for name in adapter.former_names}
    while True:
        wanted |= {place.name for place in plan(session, manifest)}
        for name in sorted(wanted - held):
            artifact_lock.own_name(session, name)
        held |= wanted
        rows = session.begin_nested()
        artifact_lock.share(session)
        bases.lock_rows(session, [base.fingerprint for base in manifest.bases])
        datasets.lock_rows(session, digests)
        _lock_adapters(session, held)
        places = plan(session, manifest)
        wanted = {place.name for place in places}
        if wanted <= held and _make_adapters(session, wanted):
            rows.commit()
            return places
        rows.rollback()


def _list_used(manifest: Manifest) -> list[BundledAdapter]:
    """Return the adapters that have versions in a bundle."""
    used = {version.name for version in manifest.versions}
    return [adapter for adapter in manifest.adapters if adapter.name in used]


def _lock_adapters(session: Session, names: Collection[str]) -> None:
    query = sa.select(_adapters.c.id).where(one_of(_adapters.c.name, sorted(names))).order_by(_adapters.c.name)
    session.execute(query.with_for_update()).all()


def _make_adapters(session: Session, names: Collection[str]) -> bool:
    """Make the adapters that are missing. Return whether nobody else made one of them meanwhile.

    A job locks no name, and an adapter without a row cannot be locked. Once the row is there, the job waits for it.
    """
    known = set(session.scalars(sa.select(_adapters.c.name).where(one_of(_adapters.c.name, sorted(names)))))
    new = sorted(set(names) - known)
    insert = insert_new(session, _adapters, "name").returning(_adapters.c.id)
    return all(session.scalar(insert.values(name=name)) is not None for name in new)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What the versions of a bundle changed in this hub besides their rows.

    Attributes:
        kept: sentences about what this hub kept of its own.
        aliases: aliases that were set, as `name@alias`.
        former_names: names of adapters by the former names that stand for them now.
    """

    kept: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    former_names: Mapping[str, str] = field(default_factory=dict)


def register(
    session: Session, manifest: Manifest, places: Sequence[Place], stored: Mapping[str, StoredVersion], *, who: str
) -> Registration:
    """Add the versions of a bundle, and what this hub lacks of those that it has.

    Args:
        places: plan of `lock`, in the same transaction.
        stored: files by the reference in the bundle, for each place that needs files.
        who: name of the user, for the audit.
    """
    search_index.share_names(session)
    needed = {place.bundled.base for place in places if place.row is None or place.outcome == "completed"}
    absent = (base for base in manifest.bases if base.fingerprint in needed)
    names = {place.name for place in places}
    base_ids = {base.fingerprint: bases.find_or_add(session, base, adapters=names) for base in absent}
    ids = {place.bundled.reference: place.row.id for place in places if place.row is not None}
    ids |= _insert_all(session, [place for place in places if place.row is None], base_ids, stored)
    for place in places:
        if place.row is not None and place.outcome == "completed":
            _complete(session, place.row.id, place.bundled, stored[place.bundled.reference])
    links = [
        {
            "version_id": ids[place.bundled.reference],
            "parent_id": ids[parent.reference],
            "position": position,
            "weight": parent.weight,
        }
        for place in places
        if place.row is None
        for position, parent in enumerate(place.bundled.parents)
    ]
    _insert_rows(session, _lineage, links)
    made = {
        place.reference: {"kind": place.bundled.kind, "bundle": place.bundled.origin.model_dump(mode="json")}
        for place in places
        if place.outcome != "known"
    }
    audit.add_all(session, who=who, action="version.create", details=made)
    session.expire_all()
    aliases = adapter_versions.list_aliases(session, names)
    had = set(aliases)
    kept = list(_merge_all(session, places, ids, aliases, who))
    named = [*_list_unnamed_bases(session, manifest), *_merge_licenses(session, manifest)]
    named += _merge_descriptions(session, manifest, places)
    homes = {place.bundled.name: place.name for place in places}
    wanted = {former: homes[adapter.name] for adapter in _list_used(manifest) for former in adapter.former_names}
    former_names, refused = adapter_names.add_former(session, wanted)
    named += [f"no former name {former} of {wanted[former]}, {reason}" for former, reason in refused.items()]
    set_aliases = tuple(sorted(aliases.keys() - had))
    return Registration(kept=(*named, *kept), aliases=set_aliases, former_names=former_names)


def _insert_rows(session: Session, table: sa.Table, rows: Sequence[Columns]) -> None:
    if rows:
        session.execute(table.insert(), rows)


def _insert_all(
    session: Session, places: Sequence[Place], base_ids: Mapping[str, int], stored: Mapping[str, StoredVersion]
) -> dict[str, int]:
    """Add new versions with their tags and evidence. Return the ids of their rows by their references in the bundle.

    They are added together: a statement for each of thousands would hold the lock of SQLite for minutes.
    """
    if not places:
        return {}
    highest: dict[str, int] = {}
    for place in places:
        highest[place.name] = max(place.number, highest.get(place.name, 0))
    adapter_ids = {name: adapter_names.count_number(session, name, number) for name, number in highest.items()}
    moment = session.scalar(sa.select(now()))
    rows = []
    for place in places:
        version, files = place.bundled, stored.get(place.bundled.reference)
        fixed = {"adapter_id": adapter_ids[place.name], "base_id": base_ids[version.base]}
        rows.append(fixed | _describe_row(place, files, moment))
    session.execute(_versions.insert(), rows)  # SQLAlchemy would send a statement for each row to return its id
    key = _versions.c.adapter_id, _versions.c.number
    inserted = session.execute(sa.select(_versions.c.id, *key).where(one_of(key[0], sorted(adapter_ids.values()))))
    found = {(row.adapter_id, row.number): row.id for row in inserted}
    ids = {place.bundled.reference: found[adapter_ids[place.name], place.number] for place in places}
    whole = [place.bundled for place in places if place.bundled.reference in stored]
    tags = ((ids[version.reference], Tag.parse(text)) for version in whole for text in version.tags)
    _insert_rows(session, _tags, [{"version_id": row_id, "name": tag.name, "value": tag.value} for row_id, tag in tags])
    measured = (_describe_evidence(ids[v.reference], v, stored[v.reference]) for v in whole)
    _insert_rows(session, _evidence, [row for row in measured if row is not None])
    return ids


def _describe_row(place: Place, files: StoredVersion | None, moment: datetime | None) -> Columns:
    """Return the columns of a new version, which do not depend on other rows.

    Args:
        moment: the present time.
    """
    version = place.bundled
    is_edited = version.card_edited_at is not None
    written = files.card if files else ""
    return {
        "number": place.number,
        "digest": files.digest if files else version.identity,  # no tree has it
        "identity": version.identity,
        "kind": version.kind,
        "state": files.state if files else "unchecked",
        "spec": make_spec(version),
        "metrics": files.metrics if files else version.metrics,
        "train_digest": version.train_digest,
        "validation_digest": version.validation_digest,
        "seed": version.seed,
        "versions": version.versions,
        "environment": version.environment,
        "card": version.card if is_edited else written,
        "card_edited_at": version.card_edited_at if is_edited else None,
        "notes": version.notes,
        "owner": version.owner,
        "preset": version.spec.get("preset"),
        "created_at": version.created_at,
        "updated_at": moment if files and version.tags else None,
        "deleted_at": None if files else moment,
    }


def make_spec(version: BundledVersion) -> JsonObject:
    """Return the specification of a version with the place where it was made."""
    return {**version.spec, "bundle": version.origin.model_dump(mode="json")}


def _complete(session: Session, row_id: int, version: BundledVersion, stored: StoredVersion) -> None:
    """Give a version its files, which came here without them."""
    changes: Columns = {"digest": stored.digest, "state": stored.state, "metrics": stored.metrics}
    changes |= {"deleted_at": None, "restored_at": now()}  # a collection that runs looks for it
    session.execute(sa.update(_versions).where(_versions.c.id == row_id).values(**changes))
    is_written = _versions.c.id == row_id, _versions.c.card_edited_at.is_(None)
    session.execute(sa.update(_versions).where(*is_written).values(card=stored.card))
    if (row := _describe_evidence(row_id, version, stored)) is not None:
        session.execute(insert_new(session, _evidence, "version_id").values(row))


def _describe_evidence(row_id: int, version: BundledVersion, stored: StoredVersion) -> Columns | None:
    """Return the row of the evidence of a version, with the digest of its sample answers; None if it has neither."""
    samples = None if stored.samples is None else hashlib.sha256(stored.samples).hexdigest()
    if stored.evidence is None and samples is None:
        return None
    document = stored.evidence if stored.evidence is not None else Evidence(kind=version.kind).to_document()
    return {"version_id": row_id, "document": document, "samples": samples}


def _merge_all(
    session: Session, places: Sequence[Place], ids: Mapping[str, int], aliases: dict[str, str], who: str
) -> Iterator[str]:
    """Add what versions lack. Yield what they have otherwise, and what is held back.

    Args:
        aliases: references by `name@alias`, to which those are added that are set.
    """
    present = [place for place in places if not place.is_deleted]
    rows = [ids[place.bundled.reference] for place in present]
    evaluations = read_evaluations(session, rows)
    loaded = dict(zip(rows, version_loading.load(session, rows), strict=True))
    new_evaluations: list[Columns] = []
    for place in places:
        row_id = ids[place.bundled.reference]
        here = loaded.get(row_id)
        is_new = place.outcome != "known"
        evaluated = {_key(evaluation): evaluation for evaluation in evaluations.get(row_id, ())}
        if here is not None or is_new:
            pair = place.given, place.bundled
            known = evaluated.values()
            yield from purged_texts.name_held_back(*pair, place.reference, here, known, is_new=is_new)
        if here is not None:
            yield from _merge(session, place.bundled, here, row_id, aliases, who)
            new_evaluations += _list_missing(place.bundled, evaluated, row_id, here.base.id)
    _insert_rows(session, _evaluations, new_evaluations)


def _merge(
    session: Session,
    version: BundledVersion,
    here: values.AdapterVersion,
    row_id: int,
    aliases: dict[str, str],
    who: str,
) -> Iterator[str]:
    """Add tags, notes, card, license and aliases that a version lacks. Yield what it has otherwise."""
    tags = {tag.name: tag for tag in map(Tag.parse, here.tags)}
    given = [Tag.parse(text) for text in version.tags]
    if missing := [str(tag) for tag in given if tag.name not in tags]:
        adapter_versions.add_tags(session, here.reference, *missing)
    yield from (
        f"tag {tags[tag.name]} of {here.reference} (the bundle has {tag})"
        for tag in given
        if tag.name in tags and tags[tag.name] != tag
    )
    if version.notes and not here.notes:
        adapter_versions.edit_notes(session, here.reference, version.notes)
    elif version.notes and version.notes != here.notes:
        yield f"the notes of {here.reference}"
    if version.card_edited_at is not None and version.card != here.card:
        if here.card_edited_at is None:
            adapter_versions.edit_card(session, here.reference, version.card, edited_at=version.card_edited_at)
        else:
            yield f"the card of {here.reference}"
    yield from _merge_data_license(session, version, here, row_id)
    for alias in version.aliases:
        yield from _merge_alias(session, here, alias, aliases, who)


def _list_missing(
    version: BundledVersion, have: Mapping[tuple[Any, ...], BundledEvaluation], row_id: int, base_id: int
) -> list[Columns]:
    """Return the rows of the evaluations that a version lacks."""
    missing = {_key(evaluation): evaluation for evaluation in reversed(version.evaluations)}  # of equal ones, the first
    return [
        {
            "base_id": base_id,
            "version_id": row_id,
            "dataset_digest": evaluation.dataset,
            **evaluation.model_dump(include={"evaluator", "metrics", "created_at"}),
        }
        for key, evaluation in reversed(missing.items())
        if key not in have
    ]


def _merge_data_license(
    session: Session, version: BundledVersion, here: values.AdapterVersion, row_id: int
) -> Iterator[str]:
    """Record the license of the training data if this hub knows none. Yield another one."""
    given, origin = version.origin.data_license, here.spec.get("bundle")
    if given is None:
        return
    digest = version.train_digest
    data = None if digest is None else datasets.find_digest(session, digest)
    known = data.license if data is not None else None
    recorded = origin.get("data_license") if isinstance(origin, dict) else None
    if data is not None and known is None and recorded in (None, given):
        datasets.set_license(session, data.digest, given)
        known = given
    known = known or recorded
    if given == known:
        return
    if known is not None:
        yield f"license {known} of the data of {here.reference} (the bundle has {given})"
    elif isinstance(origin, dict):
        spec = {**here.spec, "bundle": {**origin, "data_license": given}}
        session.execute(sa.update(_versions).where(_versions.c.id == row_id).values(spec=spec))


def _key(evaluation: Any) -> tuple[Any, ...]:
    return evaluation.dataset, evaluation.evaluator, to_milliseconds(evaluation.created_at)


def _merge_alias(
    session: Session, here: values.AdapterVersion, alias: str, aliases: dict[str, str], who: str
) -> Iterator[str]:
    name = f"{here.name}@{alias}"
    current = aliases.get(name)
    if current is not None:
        if current != here.reference:
            yield f"alias {name} at {current} (the bundle has it at {here.reference})"
    elif alias.isdigit():
        yield f"no alias {name}, since it is all digits"
    elif here.state != "ready":
        yield f"no alias {name}, since {here.reference} is {here.state}"
    else:
        why = "a bundle has it"
        adapters.set_alias(session, here.name, alias, here.number, expected=0, who=who, why=why)
        details = {"to": here.number, "expected": 0, "why": why}
        audit.add(session, who=who, action="alias.move", on=name, details=details)
        aliases[name] = here.reference


def _list_unnamed_bases(session: Session, manifest: Manifest) -> Iterator[str]:
    """Yield the bases that have an id in the bundle and none here.

    They stay without: exports and cards name the id, so that a stranger would choose what others download.
    """
    here = {base.fingerprint: base for base in bases.find(session)}
    for base in manifest.bases:
        known = here.get(base.fingerprint)
        if known is not None and known.hub_id is None and base.public_id is not None:
            fix = f"the bundle has {base.public_id}; `bases add --public-id` gives it one"
            yield f"base {known.name} without an id ({fix})"


def _merge_licenses(session: Session, manifest: Manifest) -> Iterator[str]:
    """Record the licenses of bases of which this hub knows none. Yield other ones."""
    here = {base.fingerprint: base for base in bases.find(session)}
    for base in manifest.bases:
        known = here.get(base.fingerprint)
        if known is None or base.license is None or base.license == known.license:
            continue
        if known.license is None:
            bases.set_license(session, base.fingerprint, base.license, base.license_link)
        else:
            yield f"license {known.license} of base {known.name} (the bundle has {base.license})"


def _merge_descriptions(session: Session, manifest: Manifest, places: Sequence[Place]) -> Iterator[str]:
    homes = {place.bundled.name: place.name for place in places}
    for adapter in manifest.adapters:
        name = homes.get(adapter.name)
        if name is None or not adapter.description:
            continue
        here = session.scalar(sa.select(_adapters.c.description).where(_adapters.c.name == name))
        if here == adapter.description:
            continue
        if here:
            yield f"the description of {name}"
        elif (reason := purged_texts.explain_description(session, name)) is not None:
            yield f"no description of {name}, {reason}"
        else:
            adapter_names.describe(session, name, adapter.description)
