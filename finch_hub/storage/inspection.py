"""Inspection of a hub: every stored byte against its hash, the rows of the registry, the bases, and orphans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finch_hub import errors, progress
from finch_hub.artifacts import gate
from finch_hub.artifacts.inventory import KINDS
from finch_hub.engine.bases import sources
from finch_hub.registry import artifact_references, bases, consistency, values
from finch_hub.specs.inspections import Finding, InspectionReport
from finch_hub.storage.stores import Stores
from finch_hub.storage.unreferenced import Unreferenced

_DAMAGED = "restore the store from a backup, or make it again"


def inspect_hub(stores: Stores) -> InspectionReport:
    """Read all that the hub has, and report what is damaged, and what nobody refers to.

    It changes nothing, and may run while the hub works.

    Raises:
        Unavailable: database or store do not answer.
    """
    stores.artifacts.check(again=True)
    inspection = _Inspection(stores)
    inspection.read_rows()
    inspection.read_artifacts()
    inspection.read_bases()
    inspection.find_orphans()
    return inspection.report()


def inspect_version(version: values.AdapterVersion, stores: Stores) -> InspectionReport:
    """Hold every stored byte of a version against its hash, and its files against its identity.

    Raises:
        Unavailable: the store does not answer.
    """
    stores.artifacts.check(again=True)
    inspection = _Inspection(stores)
    inspection.read_version(version)
    return inspection.report()


class _Inspection:
    """One inspection, which collects what it finds."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._findings: list[Finding] = []
        self._sizes: dict[str, int] = {}  # of the blobs that are as they should be
        self._problems: dict[str, str] = {}  # of the others
        self._trees = self._rows = 0

    def report(self) -> InspectionReport:
        """Return what was read and found."""
        findings = sorted(self._findings, key=lambda finding: finding.kind)  # damage before orphans
        total = sum(self._sizes.values())
        return InspectionReport(
            trees=self._trees, files=len(self._sizes), bytes=total, rows=self._rows, findings=tuple(findings)
        )

    def read_rows(self) -> None:
        """Read the registry."""
        meter = progress.Meter("rows read")

        def count(rows: int) -> None:
            self._rows += rows
            meter.add(rows)

        with self._stores.database.read() as session:
            self._findings += consistency.find_damaged_rows(session, count=count)
            self._findings += consistency.find_inconsistencies(session)
            self._findings += consistency.find_stale_entries(session)

    def read_artifacts(self) -> None:
        """Read each stored file that a version or a data set refers to."""
        with self._stores.database.read() as session:
            references = artifact_references.find_references(session)
        trees, texts = sorted(references.trees), sorted(references.texts)
        for tree in progress.track(trees, "checking adapters", total=len(trees)):
            for what in self._read_tree(tree):
                with self._stores.database.read() as session:
                    named = ", ".join(artifact_references.name_versions(session, tree))
                if named:  # otherwise it was deleted meanwhile
                    self._add(f"adapter {named}", what)
        for digest in sorted(references.samples):
            problem = self._read_blob(digest)
            if problem is not None:
                with self._stores.database.read() as session:
                    named = ", ".join(artifact_references.name_sampled(session, digest))
                if named:
                    self._add(f"sample answers of adapter {named}", problem)
        for text in progress.track(texts, "checking data sets", total=len(texts)):
            problem = self._read_blob(text)
            if problem is not None:
                with self._stores.database.read() as session:
                    is_needed = text in artifact_references.find_references(session).texts
                    named = ", ".join(artifact_references.name_datasets(session, text))
                if is_needed:  # otherwise it was purged meanwhile
                    self._add(f"data set {named}", problem)

    def read_version(self, version: values.AdapterVersion) -> None:
        """Read the files of a version."""
        where = f"adapter {version.reference}"
        problems = list(self._read_tree(version.digest))
        for what in problems:
            self._add(where, what)
        if not problems:
            identity = gate.adapter_identity(self._stores.artifacts.fetch_tree(version.digest))
            if identity != version.identity:
                self._add(where, f"its files have the identity {identity}, and the registry {version.identity}")

    def read_bases(self) -> None:
        """Hold the files of bases on this machine against their fingerprints."""
        with self._stores.database.read() as session:
            known = bases.find(session)
        for base in progress.track(known, "checking bases", total=len(known)):
            where, fix = f"base {base.name}", f"run `finch-hub bases add {base.source}` where its files are"
            try:
                sources.check_registered(base, cache=self._stores.bases)
            except errors.FinchError as error:
                self._findings.append(Finding(where=where, what=str(error), fix=fix))
            else:
                if base.path is not None and not Path(base.path).is_dir():
                    what = f"its folder {base.path} is not on this machine"
                    self._findings.append(Finding(kind="orphan", where=where, what=what, fix=fix))

    def find_orphans(self) -> None:
        """Count what nobody refers to."""
        seconds = self._stores.settings.unused_days * 86_400.0
        unreferenced = Unreferenced(self._stores, kept_seconds=seconds, is_exact=False)
        for kind in KINDS:
            what = {"trees": "folders of adapters", "blobs": "files"}[kind]
            found = [artifact for batch in unreferenced.scan(kind) for artifact in batch]
            if found:
                text = f"nobody refers to {len(found):,} {what} of {sum(item.size for item in found):,} bytes"
                fix = "run `finch-hub gc`, which removes what is older than some days"
                self._findings.append(Finding(kind="orphan", where="store", what=text, fix=fix))

    def _add(self, where: str, what: str) -> None:
        self._findings.append(Finding(where=where, what=what, fix=_DAMAGED))

    def _read_tree(self, digest: str) -> Iterator[str]:
        """Yield what is wrong with a tree and its files."""
        try:
            entries = self._stores.artifacts.tree(digest)
        except (errors.MissingArtifact, errors.RefusedArtifact) as error:
            yield f"the list of its files cannot be read: {error}"
            return
        self._trees += 1
        for name, entry in entries.items():
            problem = self._read_blob(entry.digest)
            if problem is not None:
                yield f"{name}: {problem}"

    def _read_blob(self, digest: str) -> str | None:
        """Return what is wrong with a blob, which is read once, None if nothing is."""
        if digest not in self._sizes and digest not in self._problems:
            try:
                self._sizes[digest] = self._stores.artifacts.measure(digest)
            except (errors.MissingArtifact, errors.RefusedArtifact) as error:
                self._problems[digest] = str(error)
        return self._problems.get(digest)
