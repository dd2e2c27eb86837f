"""Purges of data sets: of the text itself, of what jobs made of it, and of copies in events, reports and logs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from finch_hub import errors, progress
from finch_hub.artifacts.inventory import StoredArtifact, find_artifact, has_rows
from finch_hub.registry import artifact_lock, datasets, values
from finch_hub.registry.text_removal import remove_texts
from finch_hub.specs.value import Value
from finch_hub.storage.changes import Change
from finch_hub.storage.log_texts import remove_from_logs
from finch_hub.storage.row_texts import RowTexts
from finch_hub.storage.samples import purge_samples
from finch_hub.storage.store_sweep import sweep_store
from finch_hub.storage.stores import Stores
from finch_hub.storage.unreferenced import Unreferenced

_MAX_NAMED = 100  # versions that a report names


class SharedRows(Value):
    """A data set that stays although it has rows of one that was purged.

    Attributes:
        dataset: its name, or its digest if it has none.
        rows: number of the rows that both have.
    """

    dataset: str
    rows: int


class PurgedDataset(values.Dataset):
    """A data set whose text was deleted, and what was deleted with it.

    Attributes:
        parts: digests of data that had rows of it and that jobs had stored, such as the halves of a split, or that had
            no name and no other rows.
        versions: the first 100 versions that were trained on it, and cannot be reproduced now.
        changed_records: number of jobs, events, versions, figures and lines of logs from which texts were removed.
        also_in: data sets that users added and that have some of its rows too. They stay.
        is_erased: whether the files of the database have no deleted text either. It is unknown on PostgreSQL.
        keeps_versions: whether the artifact store keeps earlier versions of what was deleted; None if it does not say.
    """

    parts: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    changed_records: int = 0
    also_in: tuple[SharedRows, ...] = ()
    is_erased: bool = False
    keeps_versions: bool | None = False


class _Kin(NamedTuple):
    """Data sets with rows of another one.

    Attributes:
        parts: digests of those that are purged with it.
        others: those that stay.
        seen: digests of all that were compared.
    """

    parts: dict[str, int]
    others: dict[str, SharedRows]
    seen: set[str]


def purge_dataset(name: str, change: Change, stores: Stores) -> PurgedDataset:
    """Delete the text of a data set, and everything that holds a row of it, except data sets that users added.

    Raises:
        NotFound: there is no such data set.
        Conflict: an unfinished job needs the data set, or a part of it.
        Unavailable: database or store do not answer, or the disk is full. What is left then, a second purge or a
            collection removes.
    """
    with stores.use_reserve():
        stores.artifacts.check(again=True)  # before the text counts as purged
        with stores.database.read() as session:
            dataset = datasets.get(session, name)
            datasets.refuse_needed(session, name, [dataset.digest])
        texts = _read_texts(dataset, stores)
        kin = _Kin({}, {}, set())
        purged: values.Dataset | None = None
        while purged is None:
            _find_kin(dataset, texts, kin, stores)
            purged = _purge_rows(name, kin, change, stores)
        with _named_errors(purged):
            num_changed = _remove_rows(purged, texts, stores, parts=kin.parts)
            with stores.artifacts.access() as files:
                keeps_versions = files.keeps_versions()
            with stores.database.read() as session:
                trained = datasets.name_trained(session, [purged.digest, *kin.parts], limit=_MAX_NAMED)
            return PurgedDataset(
                **dict(purged),
                versions=tuple(trained),
                parts=tuple(sorted(kin.parts)),
                changed_records=num_changed,
                also_in=tuple(sorted(kin.others.values(), key=lambda other: other.dataset)),
                is_erased=stores.database.erase_deleted(),
                keeps_versions=keeps_versions,
            )


def _purge_rows(name: str, kin: _Kin, change: Change, stores: Stores) -> values.Dataset | None:
    """Mark a data set and its parts as purged. Return None if there is a new data set, which was not compared."""
    try:
        with change.write() as session:
            artifact_lock.own(session)  # who registers what was made of this data set shares it
            if not kin.seen.issuperset(datasets.list_live(session)):
                raise _NewDataset
            purged = datasets.purge(session, name, parts=kin.parts)
            change.on = purged.name or purged.digest
            change.details |= {"digest": purged.digest, "parts": sorted(kin.parts)}
            return purged
    except _NewDataset:
        return None


class _NewDataset(Exception):
    """A data set was added that a purge has not compared. The transaction, with its entry in the audit, is undone."""


def finish_purge(digest: str, stores: Stores, *, before: float) -> None:
    """Finish the purge of a data set, unless somebody adds it again.

    The purge has recorded which parts it deletes. So no other data set is purged. The caller calls `erase_deleted` of
    the database.

    Args:
        before: time by the clock of the store. Files that were written later stay, since somebody may register them.

    Raises:
        Unavailable: the purge could not be finished.
    """
    with stores.database.read() as session:
        dataset = datasets.find_digest(session, digest)
    if dataset is None or dataset.purged_at is None:
        return
    # What was written before the purge is not of somebody who adds the data again.
    before = max(before, dataset.purged_at.timestamp())
    with _named_errors(dataset):
        if _is_older(digest, stores, before):
            _remove_rows(dataset, _read_texts(dataset, stores), stores, before=before)


@contextlib.contextmanager
def _named_errors(dataset: values.Dataset) -> Iterator[None]:
    """Name the data set whose purge failed.

    Raises:
        Unavailable: the purge could not be finished.
    """
    try:
        yield
    except (errors.FinchError, OSError) as error:
        name = dataset.name or dataset.digest[:12]
        raise errors.Unavailable(f"could not finish the purge of data set {name}: {error} (purge it again)") from error


def _remove_rows(
    purged: values.Dataset, texts: RowTexts, stores: Stores, *, parts: Iterable[str] = (), before: float = math.inf
) -> int:
    """Delete the text of a data set that counts as purged, with all copies of its rows.

    Return the number of rows and lines that changed.
    """
    sweep_store(stores.artifacts, stores.database)
    num_samples = purge_samples(texts, stores, before=before)
    num_rows = remove_texts(stores.database, texts.are_in) if len(texts) else 0
    num_lines = remove_from_logs(stores.settings.home / "logs", texts) if len(texts) else 0
    for digest in parts:
        _remove_purged(digest, stores, before)
    _remove_unregistered(texts, purged, stores, before)
    # The text tells what is to be found, so it goes last: a purge that was interrupted can be made again.
    _remove_purged(purged.digest, stores, before)
    return num_rows + num_lines + num_samples


def _read_texts(dataset: values.Dataset, stores: Stores) -> RowTexts:
    """Return the texts of the rows, none if they are gone."""
    lines = stores.artifacts.read_lines(dataset.digest)
    return RowTexts(_until_damage(progress.track(lines, "reading rows", total=dataset.examples)))


def _until_damage(lines: Iterator[bytes]) -> Iterator[bytes]:
    with contextlib.suppress(errors.MissingArtifact, errors.RefusedArtifact):
        yield from lines


def _find_kin(dataset: values.Dataset, texts: RowTexts, kin: _Kin, stores: Stores) -> None:
    """Compare the data sets that were not compared yet."""
    with stores.database.read() as session:
        digests = sorted(set(datasets.list_live(session)) - kin.seen)
    for digest in progress.track(digests, "comparing data sets"):
        kin.seen.add(digest)
        with stores.database.read() as session:
            other = datasets.find_digest(session, digest)
        if other is None or digest == dataset.digest or not len(texts):
            continue
        shared = texts.count_in(_until_damage(stores.artifacts.read_lines(other.digest)))
        # Earlier versions did not record who stored a data set. It is a part if it has no other rows.
        is_part = other.of_jobs or shared == other.examples
        if shared and other.name is None and is_part:
            kin.parts[other.digest] = shared
        elif shared:
            kin.others[other.digest] = SharedRows(dataset=other.name or other.digest[:12], rows=shared)


def _remove_purged(digest: str, stores: Stores, before: float) -> None:
    """Remove the text of a data set that counts as purged.

    The text goes after the commit, so that no job needs it, and under the lock, so that it is not the text of somebody
    who has added the data set again.
    """
    with stores.database.write() as session:
        if datasets.lock_purged(session, digest) and _is_older(digest, stores, before):
            stores.artifacts.remove(digest)


def _is_older(digest: str, stores: Stores, before: float) -> bool:
    """Return whether a blob is stored and was not written since."""
    blob = find_artifact(stores.artifacts, "blobs", digest)
    return blob is not None and (blob.modified is None or blob.modified <= before)


def _remove_unregistered(texts: RowTexts, dataset: values.Dataset, stores: Stores, before: float) -> None:
    """Remove other blobs with rows that no data set refers to: of submissions that failed, or of a moment ago.

    The text of another purge that was interrupted stays if it has other rows, whose copies are still to be found.
    """
    if not len(texts):
        return
    unreferenced = Unreferenced(stores, is_exact=False)
    for blobs in unreferenced.scan("blobs"):
        for blob in blobs:
            shared = 0 if blob.digest == dataset.digest else _count_rows_of(texts, blob, stores)
            if not shared:
                continue
            with stores.database.write() as session:
                artifact_lock.own(session)
                other = datasets.find_digest(session, blob.digest)
                if other is not None and other.examples > shared:
                    continue
                if unreferenced.keep_unreferenced(session, [blob]) and _is_older(blob.digest, stores, before):
                    stores.artifacts.remove(blob.digest)


def _count_rows_of(texts: RowTexts, blob: StoredArtifact, stores: Stores) -> int:
    if not has_rows(stores.artifacts, blob.digest):
        return 0
    return texts.count_in(_until_damage(stores.artifacts.read_lines(blob.digest)))
