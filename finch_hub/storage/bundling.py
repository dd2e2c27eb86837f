"""Bundling: versions with their lineage and files in one file, for other hubs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts import bundle_manifest
from finch_hub.artifacts.bundle_file import write_bundle
from finch_hub.artifacts.inventory import find_artifact
from finch_hub.formats.atomic_writes import flush_path, scratch_folder, translate_write_errors
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.registry import bundled_versions, values
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
from finch_hub.storage.publishing import make_public
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
        Damaged: rows of the versions are damaged, so that no hub would take the bundle, or something would be lost.
        Unavailable: database or store do not answer, or the path cannot be written.
    """
    _refuse_existing(out)
    stores.artifacts.check(again=True)
    with stores.database.read() as session:
        rows = bundled_versions.read(session, references)
    manifest = _describe_readable(rows, stores, lineage=lineage, samples=samples)
    with translate_write_errors(out), scratch_folder(out) as scratch:
        write_bundle(scratch / "bundle", manifest, stores.artifacts)
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
    return Manifest(
        format=FORMAT,
        bases=tuple(_describe_base(bases[fingerprint], rows) for fingerprint in sorted(bases)),
        adapters=rows.adapters,
        versions=tuple(
            _describe_version(version, rows, stores, lineage=lineage, samples=samples) for version in rows.versions
        ),
    )


def _describe_base(base: values.Base, rows: BundledRows) -> BundledBase:
    return BundledBase(
        fingerprint=base.fingerprint,
        name=Path(base.name).name or base.fingerprint,  # a name can be a path of this machine
        revision=base.revision,
        public_id=base.hub_id,
        architecture=base.architecture,
        parameters=base.parameters,
        evaluations=rows.base_evaluations.get(base.fingerprint, ()),
    )


def _describe_version(
    version: values.AdapterVersion, rows: BundledRows, stores: Stores, *, lineage: bool, samples: bool
) -> BundledVersion:
    spec = make_public(version.spec, version.base)
    origin = _find_origin(version, spec.pop("bundle", None), rows.hub)
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
        card=version.card,
        notes=version.notes,
        owner=version.owner,
        tags=tuple(sorted(version.tags)) if is_whole else (),
        aliases=tuple(sorted(version.aliases)) if is_whole else (),
        evaluations=rows.evaluations.get(version.reference, ()) if is_whole else (),
        evidence=_bare(rows.evidence.get(version.reference)) if is_whole else None,
        samples=_find_samples(version.reference, rows, stores) if is_whole and samples else None,
        created_at=to_milliseconds(version.created_at),
    )


def _find_samples(reference: str, rows: BundledRows, stores: Stores) -> BundledFile | None:
    """Return the sample answers of a version, None if it has none, or they were purged meanwhile."""
    digest = rows.samples.get(reference)
    stored = None if digest is None else find_artifact(stores.artifacts, "blobs", digest)
    return None if stored is None else BundledFile(digest=stored.digest, size=stored.size)


def _bare(evidence: Evidence | None) -> Evidence | None:
    """Return evidence without what other fields of the version have."""
    return None if evidence is None else Evidence.of(evidence.to_document())


def _find_origin(version: values.AdapterVersion, recorded: object, hub: str) -> Origin:
    """Return the hub that made a version: that of the bundle that it came with, otherwise this one."""
    if isinstance(recorded, dict):
        return Origin.of_stored(recorded)
    return Origin(hub=hub, reference=version.reference, state=version.state)
