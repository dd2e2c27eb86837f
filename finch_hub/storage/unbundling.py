"""Unbundling: versions of another hub pass the gate and become versions here. Nothing in a bundle is trusted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finch_hub import errors, progress
from finch_hub.artifacts.bundle_file import UnpackedBundle, unpack_bundle
from finch_hub.formats.atomic_writes import scratch_folder
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.registry import adapter_versions, bases, unbundled_versions, values
from finch_hub.registry.database import Session
from finch_hub.registry.unbundled_versions import Place, Registration, StoredVersion
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.bundles import BundledBase, BundledVersion, Manifest, UnbundledVersion, UnbundleReport
from finch_hub.storage.bundle_texts import mask_secrets
from finch_hub.storage.changes import Change
from finch_hub.storage.publishing import Description, WrittenAdapter, require_tree, write_adapter
from finch_hub.storage.samples import parse_bundled
from finch_hub.storage.stores import Stores

ReadLayout = Callable[[values.Base], BaseLayout | None]
"""Returns the modules of a base, None if its files are not on this machine."""


def take_bundle(file: Path, stores: Stores, change: Change | None, *, read_layout: ReadLayout) -> UnbundleReport:
    """Add the versions of a bundle that this hub lacks, and what it lacks of those that it has.

    Everything is checked before anything is stored. Files are stored first, and all rows in one transaction. After an
    interruption, the same call continues, and what was stored is collected if it is not made.

    Args:
        change: change that takes the bundle; None only checks it, and reports what would be done.

    Raises:
        NotFound: there is no such file.
        RefusedArtifact: with everything that is wrong with the bundle.
        Incompatible: a version does not fit its base, or a newer Finch Hub made the bundle.
        Unavailable: database or store do not answer, or are full.
    """
    with scratch_folder(stores.settings.home / "unbundle") as scratch:
        bundle = unpack_bundle(file, scratch / "files")
        bundle = replace(bundle, manifest=mask_secrets(bundle.manifest, stores.redactor))
        with stores.database.read() as session:
            places = unbundled_versions.plan(session, bundle.manifest)
            before = _read_meanings(session, places)
        gate = _Gate(bundle, scratch, stores, read_layout)
        written = gate.admit(places)
        registration = Registration()
        if change is not None:
            stores.artifacts.check(again=True)
            stored = {
                reference: StoredVersion(
                    digest=stores.artifacts.put_tree(adapter.folder),
                    state=adapter.state,
                    metrics=adapter.metrics,
                    card=adapter.card,
                    evidence=adapter.evidence,
                    samples=gate.samples.get(reference),
                )
                for reference, adapter in progress.track(written.items(), "storing versions", total=len(written))
            }
            admitted = {place.bundled.reference: place.bundled for place in places}
            places, registration = _register(bundle.manifest, admitted, stored, stores, change)
    with stores.database.read() as session:
        after = _read_meanings(session, places)
    states = {reference: adapter.state for reference, adapter in written.items()}
    return UnbundleReport(
        file=str(file),
        versions=tuple(_report(place, states) for place in places),
        kept=registration.kept,
        aliases=registration.aliases,
        former_names=dict(registration.former_names),
        meanings=tuple(adapter_versions.explain_meanings(before, after)),
        absent_bases=_find_absent_bases(bundle.manifest, stores),
        is_dry_run=change is None,
    )


def _register(
    manifest: Manifest,
    admitted: Mapping[str, BundledVersion],
    stored: Mapping[str, StoredVersion],
    stores: Stores,
    change: Change,
) -> tuple[list[Place], Registration]:
    with change.write() as session:
        places = unbundled_versions.lock(session, manifest)
        for place in places:
            if place.needs_files:
                reference = place.bundled.reference
                if reference not in stored or place.bundled != admitted[reference]:  # its data was purged, or added
                    what = f"could not register version {reference}: this hub changed meanwhile"
                    raise errors.Unavailable(f"{what} (try again)")
                require_tree(stored[reference].digest, stores, place.name)
                samples = stored[reference].samples
                if samples is not None:
                    # Within the lock, so that no collection removes them. A purge owns it, so the text is not purged.
                    stores.artifacts.put(samples)
        new = sum(place.outcome != "known" for place in places)
        change.details |= {"new": new, "known": len(places) - new}
        registration = unbundled_versions.register(session, manifest, places, stored, who=change.who)
        if registration.former_names:
            change.details["former_names"] = dict(registration.former_names)
        return places, registration


def _read_meanings(session: Session, places: Sequence[Place]) -> dict[str, str]:
    """Return what the bare names of adapters stand for."""
    return adapter_versions.read_meanings(session, sorted({place.name for place in places}))


def _report(place: Place, states: dict[str, values.VersionState]) -> UnbundledVersion:
    reference = place.bundled.reference
    state = states[reference] if place.needs_files else None
    if place.outcome == "known" and place.row is not None and place.row.deleted_at is None:
        state = place.row.state
    is_purged = place.row is not None and place.row.purged_at is not None
    return UnbundledVersion(
        bundled=reference, reference=place.reference, outcome=place.outcome, state=state, is_purged=is_purged
    )


def _find_absent_bases(manifest: Manifest, stores: Stores) -> tuple[str, ...]:
    """Return the names of the bases of a bundle whose files are not on this machine."""
    with stores.database.read() as session:
        here = {base.fingerprint: base for base in bases.find(session)}
    found = ((base, here.get(base.fingerprint)) for base in manifest.bases)
    return tuple(known.name if known else base.name for base, known in found if not (known and _has_files(known)))


def _has_files(base: values.Base) -> bool:
    return base.path is not None and (Path(base.path) / "config.json").is_file()


class _Gate:
    """The gate for the versions of one bundle.

    Attributes:
        samples: sample answers of admitted versions that have some, by their reference in the bundle.
    """

    def __init__(self, bundle: UnpackedBundle, scratch: Path, stores: Stores, read_layout: ReadLayout) -> None:
        self._bundle, self._scratch, self._stores = bundle, scratch, stores
        self.samples: dict[str, bytes] = {}
        with stores.database.read() as session:
            here = {base.fingerprint: base for base in bases.find(session)}
        self._bases: dict[str, BaseDescription] = {base.fingerprint: _describe(base) for base in bundle.manifest.bases}
        self._bases |= {fingerprint: here[fingerprint] for fingerprint in self._bases.keys() & here.keys()}
        self._layouts = {
            fingerprint: read_layout(base) for fingerprint, base in self._bases.items() if isinstance(base, values.Base)
        }

    def admit(self, places: Sequence[Place]) -> dict[str, WrittenAdapter]:
        """Return the versions whose files are needed, each in a folder of its own, by their reference in the bundle.

        Raises:
            RefusedArtifact: with everything that is wrong with any of them.
            Incompatible: the only problem is that they do not fit their bases.
        """
        needed = [place for place in places if place.needs_files]
        written: dict[str, WrittenAdapter] = {}
        problems: list[errors.Problem] = []
        is_fit_only = True
        for number, place in enumerate(progress.track(needed, "checking versions", total=len(needed))):
            reference = place.bundled.reference
            try:
                adapter = self._write(place, self._scratch / str(number))
                self._read_samples(place.bundled)
            except errors.InvalidInput as error:
                is_fit_only &= isinstance(error, errors.Incompatible)
                problems += [_at(reference, problem) for problem in error.problems]
                continue
            written[reference] = adapter
            if adapter.identity != place.bundled.identity:
                what = f"its files have the identity {adapter.identity}, and the manifest {place.bundled.identity}"
                problems.append(errors.Problem(where=reference, what=what))
                is_fit_only = False
        if problems:
            raise (errors.Incompatible if is_fit_only else errors.RefusedArtifact)(problems, subject="bundle")
        return written

    def _read_samples(self, version: BundledVersion) -> None:
        """Read the sample answers of a version.

        Raises:
            RefusedArtifact: they are no sample answers.
        """
        if version.samples is None:
            return
        try:
            data = self._bundle.find(version.samples).read_bytes()
            samples = parse_bundled(data, len(version.parents))
        except errors.InvalidSpec as error:
            raise errors.RefusedArtifact([_at("sample answers", problem) for problem in error.problems]) from None
        self.samples[version.reference] = samples.to_stored()

    def _write(self, place: Place, folder: Path) -> WrittenAdapter:
        version = place.bundled
        source = folder / "source"
        source.mkdir(parents=True)
        for name, file in (version.files or {}).items():
            shutil.copyfile(self._bundle.find(file), source / name)
        layout = self._layouts.get(version.base)
        state = version.state if version.state != "unchecked" else "ready"
        description = Description(
            name=version.name,
            kind=version.kind,
            base=self._bases[version.base],
            lineage=values.Lineage(
                parents=tuple(values.ParentVersion(reference=p.reference, weight=p.weight) for p in version.parents),
                **version.model_dump(include={"train_digest", "validation_digest", "seed", "versions", "environment"}),
            ),
            spec=unbundled_versions.make_spec(version),
            metrics=version.metrics,
            evidence=version.evidence,
            state=state if layout is not None else "unchecked",
        )
        adapter = write_adapter(source, folder / "adapter", self._stores, description, layout=layout)
        shutil.rmtree(source)
        return adapter


def _describe(base: BundledBase) -> BaseDescription:
    return BaseDescription(**base.columns, source=base.source)


def _at(reference: str, problem: errors.Problem) -> errors.Problem:
    where = f"{reference}: {problem.where}" if problem.where else reference
    return errors.Problem(where=where, what=problem.what, fix=problem.fix)
