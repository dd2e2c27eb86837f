"""Inspection of a hub: every stored byte against its hash, the rows of the registry, the bases, and orphans."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from finch_hub import errors, progress
from finch_hub.artifacts import gate
from finch_hub.artifacts.inventory import KINDS, list_artifacts
from finch_hub.artifacts.store import ArtifactStore, blob_path, tree_path
from finch_hub.engine.bases import sources
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.registry import artifact_references, bases, consistency, row_copies, values
from finch_hub.registry.consistency import ExplainSpec
from finch_hub.registry.database import Session, is_damage
from finch_hub.settings import Settings
from finch_hub.specs.inspections import Finding, InspectionReport
from finch_hub.storage.stores import Stores, open_artifacts
from finch_hub.storage.unreferenced import Unreferenced

T = TypeVar("T")

_BATCH = 1000  # trees whose identities are read together

_AGAIN = {
    "adapter": "or delete this version and make it again",
    "sample answers of adapter": "or make the version again",
    "data set": "or add the same data again",
}


def inspect_hub(stores: Stores, *, explain_spec: ExplainSpec = lambda kind, spec: None) -> InspectionReport:
    """Read all that the hub has, and report what is damaged, and what nobody refers to.

    It changes nothing, and may run while the hub works.

    Args:
        explain_spec: tells why the specification of a job cannot be read.

    Raises:
        Unavailable: database or store do not answer.
    """
    inspection = _HubInspection(stores)
    inspection.check_store()
    inspection.read_rows(explain_spec)
    inspection.read_artifacts()
    inspection.read_bases()
    inspection.find_orphans()
    return inspection.report()


def inspect_artifacts(settings: Settings, error: errors.Unavailable) -> InspectionReport:
    """Read all that the store has, beside a registry that is so damaged that it cannot be opened.

    Args:
        error: why the registry cannot be opened.

    Raises:
        Unavailable: the store does not answer.
    """
    inspection = _StoreInspection(open_artifacts(settings, None))
    inspection.add_registry_damage("the database", error)
    inspection.read_store()
    return inspection.report()


def inspect_version(version: values.AdapterVersion, stores: Stores) -> InspectionReport:
    """Hold every stored byte of a version against its hash, and its files against its identity.

    Raises:
        Unavailable: the store does not answer.
    """
    stores.artifacts.check(again=True)
    inspection = _StoreInspection(stores.artifacts)
    inspection.read_version(version)
    return inspection.report()


def list_damage(tree: str, stores: Stores) -> list[str] | None:
    """Return what is wrong with the stored files of a version, None if some of them are not there.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found = list(_StoreInspection(stores.artifacts).read_tree(tree))
    return None if any(problem.is_missing for problem in found) else [problem.what for problem in found]


class _Problem(NamedTuple):
    """What is wrong with a stored file, and where in the store it is."""

    what: str
    path: str
    is_missing: bool


class _StoreInspection:
    """An inspection of stored files, which collects what it finds."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._findings: list[Finding] = []
        self._sizes: dict[str, int] = {}  # of the blobs that are as they should be
        self._problems: dict[str, _Problem] = {}  # of the others
        self._trees: set[str] = set()  # whose files were read
        self._rows = 0

    def report(self) -> InspectionReport:
        """Return what was read and found."""
        findings = sorted(self._findings, key=lambda finding: finding.kind)  # damage before orphans
        total = sum(self._sizes.values())
        return InspectionReport(
            trees=len(self._trees), files=len(self._sizes), bytes=total, rows=self._rows, findings=tuple(findings)
        )

    def add_registry_damage(self, part: str, error: errors.Unavailable) -> None:
        """Add that a part of the registry cannot be read."""
        what = f"cannot read {part}: {getattr(error.__cause__, 'orig', error)}"
        self._findings.append(Finding(where=consistency.DATABASE, what=what, fix=consistency.RESTORE))

    def read_store(self) -> None:
        """Read all that the store has, if the registry cannot say what it is."""
        for kind in KINDS:
            for found in list_artifacts(self._artifacts, kind):
                for artifact in progress.track(found, f"checking {kind}", total=len(found)):
                    problem = self._read_blob(artifact.digest) if kind == "blobs" else None
                    problems = list(self.read_tree(artifact.digest)) if kind == "trees" else [problem]
                    for each in filter(None, problems):
                        self._add(f"store: {artifact.path}", each, "or make its adapter or data set again")

    def read_version(self, version: values.AdapterVersion) -> None:
        """Read the files of a version."""
        where = f"adapter {version.reference}"
        problems = list(self.read_tree(version.digest))
        for problem in problems:
            self._add(where, problem, _AGAIN["adapter"])
        if not problems:
            identity = self._find_identity(version.digest)
            if identity is not None and identity != version.identity:
                self._add_identity(where, identity, version.identity)

    def _find_identity(self, tree: str) -> str | None:
        """Return the identity of files that are as they should be, None if they were removed meanwhile."""
        try:
            entries = self._artifacts.tree(tree)
            if not {CONFIG, WEIGHTS} <= entries.keys():
                return "of no adapter"
            config = self._artifacts.get(entries[CONFIG].digest)
        except errors.MissingArtifact:
            return None
        return gate.identity_of(config, entries[WEIGHTS].digest)

    def _add_identity(self, where: str, identity: str, registered: str) -> None:
        what = f"its files have the identity {identity}, and the registry {registered}"
        self._findings.append(Finding(where=where, what=what, fix=consistency.RESTORE))

    def _add(self, where: str, problem: _Problem, again: str) -> None:
        fix = f"copy {problem.path} from `artifacts` of a backup to the store, {again}"
        self._findings.append(Finding(where=where, what=problem.what, fix=fix))

    def read_tree(self, digest: str) -> Iterator[_Problem]:
        """Yield what is wrong with a tree and its files."""
        try:
            entries = self._artifacts.tree(digest)
        except (errors.NotFound, errors.RefusedArtifact) as error:
            problem = _describe(error, tree_path(digest))
            yield problem._replace(what=f"the list of its files cannot be read: {problem.what}")
            return
        self._trees.add(digest)
        for name, entry in entries.items():
            problem_of_file = self._read_blob(entry.digest)
            if problem_of_file is not None:
                yield problem_of_file._replace(what=f"{name}: {problem_of_file.what}")

    def _read_blob(self, digest: str) -> _Problem | None:
        """Return what is wrong with a blob, which is read once, None if nothing is."""
        if digest not in self._sizes and digest not in self._problems:
            try:
                self._sizes[digest] = self._artifacts.measure(digest)
            except (errors.NotFound, errors.RefusedArtifact) as error:
                self._problems[digest] = _describe(error, blob_path(digest))
        return self._problems.get(digest)


class _HubInspection(_StoreInspection):
    """An inspection of stored files and of the rows that refer to them."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores.artifacts)
        self._stores = stores

    def check_store(self) -> None:
        """Refuse the store of another deployment, unless the registry is too damaged to tell its own."""
        try:
            self._artifacts.check(again=True)
        except errors.Unavailable as error:
            if not is_damage(error):
                raise
            self.add_registry_damage("which store it has", error)
            self._artifacts = open_artifacts(self._stores.settings, None)

    def read_rows(self, explain_spec: ExplainSpec) -> None:
        """Read the registry. A damaged part of it hides no other part."""
        meter = progress.Meter("rows read")

        def count(rows: int) -> None:
            self._rows += rows
            meter.add(rows)

        self._collect("its structure", consistency.find_damaged_file)
        for table in row_copies.list_tables():
            find = functools.partial(consistency.find_damaged_rows, table=table, count=count)
            self._collect(f"table {table.name}", find)
        find_wrong = functools.partial(consistency.find_wrong_documents, explain_spec=explain_spec)
        self._collect("the documents of versions and jobs", find_wrong)
        self._collect("the lineage", consistency.find_circles)
        self._collect("what rows say about others", consistency.find_inconsistencies)
        self._collect("the search index", consistency.find_stale_entries)

    def _collect(self, part: str, find: Callable[[Session], Iterable[Finding]]) -> None:
        """Add what a part of the registry has, or that it cannot be read."""

        def collect(session: Session) -> None:
            for finding in find(session):
                self._findings.append(finding)

        self._query(part, collect)

    def _query(self, part: str, read: Callable[[Session], T]) -> T | None:
        """Return what a query of the registry returns, None if it cannot because the files are damaged."""
        try:
            with self._stores.database.read() as session:
                return read(session)
        except errors.Unavailable as error:
            if not is_damage(error):
                raise
            self.add_registry_damage(part, error)
            return None

    def read_artifacts(self) -> None:
        """Read each stored file that a version, which may be deleted, or a data set refers to."""
        references = self._query("which files versions and data sets have", artifact_references.find_references)
        if references is None or self._is_registry_damaged:
            self.read_store()
        if references is None:
            return
        trees = _sort(references.all_trees)
        identities: dict[str, set[str]] | None = {}
        for number, tree in enumerate(progress.track(trees, "checking adapters", total=len(trees))):
            if number % _BATCH == 0 and identities is not None:  # a damaged page would stop each query
                batch = trees[number : number + _BATCH]
                find = functools.partial(artifact_references.find_identities, trees=batch)
                identities = self._query("the identities of versions", find)
            is_deleted = tree in references.deleted_trees
            problems = list(self.read_tree(tree))
            if is_deleted and any(problem.is_missing for problem in problems):
                continue  # a collection has removed them
            if problems:
                name = functools.partial(artifact_references.name_versions, tree=tree, deleted=is_deleted)
                self._add_damage("adapter", tree, name, problems, is_deleted=is_deleted)
            elif identities is not None:
                self._check_identity(tree, identities.get(tree, set()))
        for samples in _sort(references.all_samples):
            is_deleted = samples in references.deleted_samples
            problem = self._read_blob(samples)
            if problem is not None and not (is_deleted and problem.is_missing):
                sampled = functools.partial(artifact_references.name_sampled, samples=samples, deleted=is_deleted)
                self._add_damage("sample answers of adapter", samples, sampled, [problem], is_deleted=is_deleted)
        texts = _sort(references.texts)
        for text in progress.track(texts, "checking data sets", total=len(texts)):
            problem = self._read_blob(text)
            if problem is not None:
                self._add_damage("data set", text, functools.partial(_name_needed, text=text), [problem])

    def _add_damage(
        self,
        what: str,
        digest: str,
        name: Callable[[Session], Sequence[str]],
        problems: Iterable[_Problem],
        *,
        is_deleted: bool = False,
    ) -> None:
        named = self._query(f"which {what} has the file {digest}", name)
        if named is None:
            named = [digest]
        if not named:  # it was deleted or purged meanwhile
            return
        where = f"{'deleted ' if is_deleted else ''}{what} {', '.join(named)}"
        again = f"or run `finch-hub adapters purge {named[0]}`" if is_deleted else _AGAIN[what]
        for problem in problems:
            self._add(where, problem, again)

    def _check_identity(self, tree: str, known: Collection[str]) -> None:
        """Hold the files of versions against the identities that the registry has."""
        identity = self._find_identity(tree)
        if identity is None or set(known) <= {identity}:
            return
        find = functools.partial(artifact_references.name_misidentified, tree=tree, identity=identity)
        for named, other in self._query("the identities of versions", find) or ():
            self._add_identity(f"adapter {named}", identity, other)

    @property
    def _is_registry_damaged(self) -> bool:
        """Whether pages of the registry cannot be read, so that it may not know all that it knew."""
        return any(finding.where == consistency.DATABASE for finding in self._findings)

    def read_bases(self) -> None:
        """Hold the files of bases on this machine against their fingerprints."""
        known, damaged = self._query("the bases", bases.find_readable) or ([], {})
        for number, what in damaged.items():
            where = f"row {number} of bases"
            self._findings.append(Finding(where=where, what=f"cannot be read: {what}", fix=consistency.RESTORE))
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
        if self._is_registry_damaged:
            return  # what it cannot name any more would be called unneeded, and the advice is to remove that
        seconds = self._stores.settings.unused_days * 86_400.0
        unreferenced = Unreferenced(self._stores, kept_seconds=seconds, is_exact=False)
        for kind in KINDS:
            what = {"trees": "folders of adapters", "blobs": "files"}[kind]
            count = size = 0
            for batch in unreferenced.scan(kind):
                count += len(batch)
                size += sum(artifact.size for artifact in batch)
            if count:
                text = f"nobody refers to {count:,} {what} of {size:,} bytes"
                fix = "run `finch-hub gc`, which removes what is older than some days"
                self._findings.append(Finding(kind="orphan", where="store", what=text, fix=fix))


def _describe(error: errors.NotFound | errors.RefusedArtifact, path: str) -> _Problem:
    if isinstance(error, errors.NotFound):
        return _Problem(str(error), path, is_missing=True)
    return _Problem("; ".join(problem.what for problem in error.problems), path, is_missing=False)


def _sort(digests: Iterable[str]) -> list[str]:
    """Return digests in order. SQLite may have other values in the place of a text, which another finding names."""
    return sorted(digest for digest in digests if isinstance(digest, str))


def _name_needed(session: Session, *, text: str) -> list[str]:
    """Return the names of the data sets that need a text, nothing if it was purged meanwhile."""
    return artifact_references.name_datasets(session, text) if artifact_references.select_blobs(session, [text]) else []
