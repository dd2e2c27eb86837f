"""Bundling: versions with their lineage and files in one file, for other hubs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts import bundle_manifest
from finch_hub.artifacts.bundle_file import write_bundle
from finch_hub.formats.atomic_writes import flush_path, scratch_folder, translate_write_errors
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.registry import bundled_versions, values
from finch_hub.registry.adapter_versions import get_row
from finch_hub.registry.bundled_versions import BundledRows
from finch_hub.specs.bundles import (
    FORMAT,
    BundledBase,
    BundledFile,
    BundledParent,
    BundledVersion,
    BundleReport,
    Manifest,
    Origin,
    to_milliseconds,
)
from finch_hub.specs.evidence import Evidence
from finch_hub.storage.bundle_texts import mask_secrets
from finch_hub.storage.inspection import inspect_version
from finch_hub.storage.publishing import make_public
from finch_hub.storage.samples import parse_bundled
from finch_hub.storage.stores import Stores


def make_bundle(
    out: Path, references: Sequence[str], stores: Stores, *, lineage: bool = True, samples: bool = False
) -> BundleReport:
    """Write versions with their ancestors to a new file. Equal versions give equal bytes.

    Args:
        lineage: whether the files of ancestors come along. Without, and if they are deleted, only their rows do.
        samples: whether the sample answers of versions with files come along. They quote rows.

    Raises:
        NotFound: there is no such adapter, version or alias.
        Conflict: the path exists.
        Deleted: a version was purged meanwhile.
        Damaged: files of versions are missing or damaged, or rows are, so that no hub would take the bundle or data
            would be lost.
        Unavailable: database or store do not answer, or the path cannot be written.
    """
    _refuse_existing(out)
    stores.artifacts.check(again=True)
    with stores.database.read() as session:
        rows = bundled_versions.read(session, references)
    with _name_damage(rows, stores):
        manifest = _describe_readable(rows, stores, lineage=lineage, samples=samples)
    with _name_damage(rows, stores), translate_write_errors(out), scratch_folder(out) as scratch:
        write_bundle(scratch / "bundle", mask_secrets(manifest, stores.redactor), stores.artifacts)
        flush_path(scratch / "bundle")
        _refuse_existing(out)
        (scratch / "bundle").rename(out)
        flush_path(out.parent)
    return BundleReport(
        file=str(out),
        versions=tuple(version.reference for version in manifest.versions if version.files is not None),
        without_files=tuple(version.reference for version in manifest.versions if version.files is None),
        bytes=out.stat().st_size,
    )


@contextlib.contextmanager
def _name_damage(rows: BundledRows, stores: Stores) -> Iterator[None]:
    """Name the versions whose files cannot be read.

    Raises:
        Deleted: a version was purged meanwhile.
        Damaged: files of versions are missing or damaged.
    """
    try:
        yield
    except (errors.MissingArtifact, errors.RefusedArtifact):
        there = [version for version in rows.versions if version.deleted_at is None]
        with stores.database.read() as session:
            for version in there:
                if get_row(session, version.reference, deleted=True).purged_at is not None:
                    raise errors.Deleted("adapter version", version.reference, is_purged=True) from None
        reports = [inspect_version(version, stores) for version in there]
        problems = [
            errors.Problem(where=found.where, what=found.what, fix=found.fix)
            for report in reports
            for found in report.damage
        ]
        if not problems:
            raise
        raise errors.Damaged(
            "\n  ".join(["cannot bundle damaged versions:", *errors.list_problems(problems)])
        ) from None


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise errors.Conflict(f"the path {out} already exists (choose another path or delete it)")


def _describe_readable(rows: BundledRows, stores: Stores, *, lineage: bool, samples: bool) -> Manifest:
    """Return a manifest that `unbundle` accepts.

    Raises:
        Damaged: the rows do not allow it.
    """
    try:
        manifest = _describe(rows, stores, lineage=lineage, samples=samples)
        problems = list(bundle_manifest.find_problems(manifest))
    except errors.InvalidSpec as error:
        problems = list(error.problems)
    bundled_versions.refuse(problems)
    return manifest


def _describe(rows: BundledRows, stores: Stores, *, lineage: bool, samples: bool) -> Manifest:
    bases = {version.base.fingerprint: version.base for version in rows.versions}
    versions = tuple(
        _describe_version(version, rows, stores, lineage=lineage, samples=samples) for version in rows.versions
    )
    return Manifest(
        format=FORMAT if any(version.samples is not None for version in versions) else 1,
        bases=tuple(_describe_base(bases[fingerprint]) for fingerprint in sorted(bases)),
        adapters=rows.adapters,
        versions=versions,
    )


def _describe_base(base: values.Base) -> BundledBase:
    return BundledBase(
        fingerprint=base.fingerprint,
        name=Path(base.name).name or base.fingerprint,  # a name can be a path of this machine
        revision=base.revision,
        public_id=base.hub_id,
        architecture=base.architecture,
        parameters=base.parameters,
        license=base.license,
        license_link=base.license_link,
    )


def _describe_version(
    version: values.AdapterVersion, rows: BundledRows, stores: Stores, *, lineage: bool, samples: bool
) -> BundledVersion:
    spec = make_public(version.spec, version.base)
    origin = _find_origin(version, spec.pop("bundle", None), rows)
    files = None
    if version.deleted_at is None and (lineage or version.reference in rows.chosen):
        tree = stores.artifacts.tree(version.digest)
        files = {name: BundledFile(digest=tree[name].digest, size=tree[name].size) for name in (CONFIG, WEIGHTS)}
    is_whole = files is not None
    made_from = version.lineage
    return BundledVersion(
        name=version.name,
        number=version.number,
        identity=version.identity,
        base=version.base.fingerprint,
        kind=version.kind,
        state=origin.state if version.state == "unchecked" else version.state,
        origin=origin,
        files=files,
        spec=spec,
        metrics=version.metrics,
        parents=tuple(BundledParent(reference=p.reference, weight=p.weight) for p in made_from.parents),
        **made_from.model_dump(exclude={"parents"}),
        card="" if version.card_edited_at is None else version.card,
        card_edited_at=None if version.card_edited_at is None else to_milliseconds(version.card_edited_at),
        notes=version.notes,
        owner=version.owner,
        tags=tuple(sorted(version.tags)) if is_whole else (),
        aliases=tuple(sorted(version.aliases)) if is_whole else (),
        evaluations=rows.evaluations.get(version.reference, ()) if is_whole else (),
        evidence=_bare(rows.evidence.get(version.reference)) if is_whole else None,
        samples=_find_samples(version, rows, stores) if is_whole and samples else None,
        created_at=to_milliseconds(version.created_at),
    )


def _find_samples(version: values.AdapterVersion, rows: BundledRows, stores: Stores) -> BundledFile | None:
    """Return the sample answers of a version, None if it has none, or they were purged meanwhile.

    Raises:
        InvalidSpec: they are no sample answers, so that no hub would take them.
    """
    digest = rows.samples.get(version.reference)
    if digest is None:
        return None
    try:
        data = stores.artifacts.get(digest)
        parse_bundled(data, len(version.lineage.parents))
    except errors.MissingArtifact:
        return None
    except errors.InvalidSpec as error:
        where = f"{version.reference}: sample answers"
        problems = [
            errors.Problem(where=f"{where}: {p.where}" if p.where else where, what=p.what) for p in error.problems
        ]
        raise errors.InvalidSpec(problems) from None
    return BundledFile(digest=digest, size=len(data))


def _bare(evidence: Evidence | None) -> Evidence | None:
    """Return evidence without what other fields of the version have."""
    return None if evidence is None else Evidence.of(evidence.to_document())


def _find_origin(version: values.AdapterVersion, recorded: object, rows: BundledRows) -> Origin:
    """Return the hub that made a version: that of the bundle that it came with, otherwise this one."""
    if isinstance(recorded, dict):
        origin = Origin.of_stored(recorded)
    else:
        origin = Origin(hub=rows.hub, reference=version.reference, state=version.state)
    known = rows.data_licenses.get(version.lineage.train_digest or "")
    return origin if known is None else origin.evolve(data_license=known)
