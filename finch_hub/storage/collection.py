"""Collection of what nobody refers to, in the store and in the home of this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts import inventory
from finch_hub.artifacts.inventory import Kind, StoredArtifact
from finch_hub.formats.atomic_writes import list_abandoned
from finch_hub.formats.folder_removal import measure_folder, remove_folder
from finch_hub.registry import artifact_lock, bases, datasets, jobs
from finch_hub.specs.collections import Collected, CollectionReport
from finch_hub.storage.purging import finish_purge
from finch_hub.storage.store_sweep import list_leftovers
from finch_hub.storage.stores import Stores
from finch_hub.storage.unreferenced import Unreferenced

_BATCH = 500  # data sets of a transaction
_DAY_SECONDS = 86_400.0
_KINDS: tuple[tuple[Kind, str], ...] = (("trees", "adapters without a version"), ("blobs", "files without a reference"))


def collect(stores: Stores, *, unused_days: float | None = None, dry_run: bool = False) -> CollectionReport:
    """Remove what nobody refers to and nobody has written or used for some days.

    That is: data that only jobs stored whose versions and history are gone, files of deleted versions, artifacts of
    writers that died, checkpoints and outputs of ended jobs, and in this home fetched adapters, converted bases and
    folders of killed processes and ended jobs. Two collections at once do no harm, and neither do running jobs.

    Args:
        unused_days: age in days; None takes that of the settings.
        dry_run: whether to remove nothing.

    Raises:
        Conflict: the files of a version are missing or damaged, so that it is unknown what it refers to.
        Unavailable: database or store do not answer, or a purge could not be finished. Then the rest was collected.
    """
    days = stores.settings.unused_days if unused_days is None else unused_days
    with stores.use_reserve():
        stores.artifacts.check(again=True)
        collection = _Collection(stores, seconds=days * _DAY_SECONDS, dry_run=dry_run)
        collection.collect_store()
        collection.collect_home()
        collection.erase_purged()
    found = tuple(item for item in collection.collected if item.count)
    return CollectionReport(
        is_dry_run=dry_run, unused_days=days, collected=found, bytes=sum(item.bytes for item in found)
    )


class _Collection:
    """One collection, which counts what it removes."""

    def __init__(self, stores: Stores, *, seconds: float, dry_run: bool) -> None:
        self._stores, self._seconds, self._dry_run = stores, seconds, dry_run
        self._purged: set[str] = set()
        self._failures: list[errors.FinchError] = []
        self.collected: list[Collected] = []

    def collect_store(self) -> None:
        """Collect what is in the artifact store."""
        store = self._stores.artifacts
        clock = inventory.read_clock(store)
        before = clock - self._seconds
        texts = self._collect_datasets()
        unreferenced = Unreferenced(self._stores, kept_seconds=self._seconds, without=texts)
        with self._stores.database.read() as session:
            self._purged = datasets.list_purged(session)
        for kind, what in _KINDS:
            removed: list[StoredArtifact] = []
            for found in unreferenced.scan(kind):
                removed += self._remove(self._finish_purges(found, before), unreferenced, before)
            self._add(what, [item.size for item in removed])
        leftovers = list_leftovers(store, self._stores.database)
        for leftover in leftovers:
            if not self._dry_run:
                leftover.remove(store)
        self._add("checkpoints and outputs of ended jobs", [leftover.size for leftover in leftovers])
        with store.access() as files:
            written = clock - max(self._seconds, _DAY_SECONDS)  # nobody writes so long
            count, size = files.remove_unfinished(written, dry_run=self._dry_run)
        self.collected.append(Collected(what="unfinished uploads", count=count, bytes=size))

    def _collect_datasets(self) -> frozenset[str]:
        """Remove the rows of data that only jobs stored and that nobody refers to, and return their digests.

        Their texts have no reference then.
        """
        with self._stores.database.read() as session:
            unused = datasets.find_unused(session, seconds=self._seconds)
        removed: list[str] = []
        for start in range(0, len(unused), _BATCH):
            batch = unused[start : start + _BATCH]
            if self._dry_run:
                removed += batch
                continue
            with self._stores.database.write() as session:
                artifact_lock.own(session)
                removed += datasets.remove_unused(session, batch)
        self._add("data sets of jobs", [0] * len(removed))
        return frozenset(removed)

    def _finish_purges(self, found: Sequence[StoredArtifact], before: float) -> list[StoredArtifact]:
        """Finish purges that were interrupted, and return the other artifacts.

        Only the text of the data set tells what else is to be removed, so it stays if that fails.
        """
        for artifact in [] if self._dry_run else found:
            if artifact.digest in self._purged:
                try:
                    finish_purge(artifact.digest, self._stores, before=before)
                except errors.FinchError as error:
                    self._failures.append(error)
        return [artifact for artifact in found if self._dry_run or artifact.digest not in self._purged]

    def _remove(
        self, found: Sequence[StoredArtifact], unreferenced: Unreferenced, before: float
    ) -> Iterator[StoredArtifact]:
        """Remove artifacts that are old enough and that still nobody refers to, and yield them."""
        waiting = [artifact for artifact in found if artifact.modified is not None and artifact.modified <= before]
        yield from waiting if self._dry_run else unreferenced.remove(waiting, before=before)

    def collect_home(self) -> None:
        """Collect what is in the home of this machine."""
        home, cache = self._stores.settings.home, self._stores.settings.cache / "artifacts"
        work = self._stores.settings.work
        work_files = list(work.iterdir()) if work.is_dir() else []  # before the query, which then sees all their jobs
        with self._stores.database.read() as session:
            # By name, which has a hash of the file: the home may have another path by now, or on another machine.
            registered = {Path(path).name for path in bases.list_paths(session).values()}
            is_needed = any(source.lower().endswith(".gguf") for source in bases.list_needed_sources(session))
            unfinished = jobs.select_unfinished(session, {path.stem for path in work_files})
        trees = Unreferenced.read_trees(self._stores, kept_seconds=self._seconds)
        fetched = [folder for folder in _list(cache, "[0-9a-f]*") if folder.name not in trees]
        self._remove_folders("fetched adapters", fetched)
        converted = [] if is_needed else _list(self._stores.bases, "gguf-*")
        self._remove_folders("converted bases", [folder for folder in converted if folder.name not in registered])
        ended = [path for path in work_files if path.stem not in unfinished]
        self._remove_folders("folders of ended jobs", ended, age=False)
        places = (home, cache, self._stores.bases)
        with contextlib.ExitStack() as stack:
            abandoned = [stack.enter_context(folder) for place in places for folder in list_abandoned(place)]
            self._remove_folders("folders of killed processes", abandoned, age=False)

    def erase_purged(self) -> None:
        """Erase what purges have left in the file of the database, and tell of a purge that could not be finished.

        Raises:
            Unavailable: a purge could not be finished, or other processes keep the file locked, or the disk is full.
        """
        database = self._stores.database
        try:
            if self._purged and not self._dry_run and database.is_unclean():
                database.erase_deleted()
        except errors.FinchError as error:
            self._failures.append(error)
        if self._failures:
            raise self._failures[0]

    def _remove_folders(self, what: str, folders: Sequence[Path], *, age: bool = True) -> None:
        sizes = []
        for folder in folders:
            with contextlib.suppress(OSError):  # somebody else removes it, or it belongs to another user
                if age and time.time() - folder.stat().st_mtime < self._seconds:
                    continue
                sizes.append(self._size_of(folder))
        self._add(what, sizes)

    def _size_of(self, path: Path) -> int:
        if path.is_dir():
            return measure_folder(path) if self._dry_run else remove_folder(path)
        size = path.lstat().st_size
        if not self._dry_run:
            path.unlink()
        return size

    def _add(self, what: str, sizes: Sequence[int]) -> None:
        self.collected.append(Collected(what=what, count=len(sizes), bytes=sum(sizes)))


def _list(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if path.is_dir() and not path.is_symlink()]
