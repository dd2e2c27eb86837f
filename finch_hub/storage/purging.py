"""Purges of data sets: of the text itself, of what jobs made of it, and of copies in events, reports and logs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from finch_hub import errors, progress
from finch_hub.artifacts.inventory import StoredArtifact, has_rows
from finch_hub.registry import artifact_lock, datasets, values
from finch_hub.registry.text_removal import remove_texts
from finch_hub.specs.value import Value
from finch_hub.storage import disk_reserve
from finch_hub.storage.log_texts import remove_from_logs
from finch_hub.storage.row_texts import RowTexts
from finch_hub.storage.store_sweep import sweep_store
from finch_hub.storage.stores import Stores
from finch_hub.storage.unreferenced import Unreferenced


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
        changed_records: number of jobs, events, versions, figures and lines of logs from which texts were removed.
        also_in: data sets that users added and that have some of its rows too. They stay.
        is_erased: whether the files of the database have no deleted text either. It is unknown on PostgreSQL.
        keeps_versions: whether the artifact store keeps earlier versions of what was deleted; None if it does not say.
    """

    parts: tuple[str, ...] = ()
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


def purge_dataset(name: str, stores: Stores) -> PurgedDataset:
    """Delete the text of a data set, and everything that holds a row of it, except data sets that users added.

    Raises:
        NotFound: there is no such data set.
        Conflict: an unfinished job needs the data set, or a part of it.
        Unavailable: database or store do not answer, or the disk is full. What is left then, a second purge or a
            collection removes.
    """
    disk_reserve.release(stores.settings.home)
    stores.artifacts.check(again=True)  # before the text counts as purged
    with stores.database.read() as session:
        dataset = datasets.get(session, name)
        datasets.refuse_needed(session, name, [dataset.digest])
    texts = _read_texts(dataset, stores)
    kin = _Kin({}, {}, set())
    purged: values.Dataset | None = None
    while purged is None:
        _find_kin(dataset, texts, kin, stores)
        with stores.database.write() as session:
            artifact_lock.own(session)  # who registers what was made of this data set shares it
            if kin.seen.issuperset(datasets.list_live(session)):
                purged = datasets.purge(session, name, parts=kin.parts)
    try:
        return _remove_rows(purged, texts, kin, stores)
    except errors.Unavailable as error:
        what = f"could not finish the purge of data set {name}, which can be repeated: {error}"
        raise errors.Unavailable(what) from error


def _remove_rows(purged: values.Dataset, texts: RowTexts, kin: _Kin, stores: Stores) -> PurgedDataset:
    """Delete the text of a data set that counts as purged, with all copies of its rows."""
    sweep_store(stores.artifacts, stores.database)
    num_rows = remove_texts(stores.database, texts.are_in) if len(texts) else 0
    num_lines = remove_from_logs(stores.settings.home / "logs", texts) if len(texts) else 0
    for digest in kin.parts:
        _remove_purged(digest, stores)
    with stores.artifacts.access() as files:
        keeps_versions = files.keeps_versions()
    _remove_unregistered(texts, purged, stores)
    # The text tells what is to be found, so it goes last: a purge that was interrupted can be made again.
    _remove_purged(purged.digest, stores)
    return PurgedDataset(
        **dict(purged),
        parts=tuple(sorted(kin.parts)),
        changed_records=num_rows + num_lines,
        also_in=tuple(sorted(kin.others.values(), key=lambda other: other.dataset)),
        is_erased=stores.database.erase_deleted(),
        keeps_versions=keeps_versions,
    )


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


def _remove_purged(digest: str, stores: Stores) -> None:
    """Remove the text of a data set that counts as purged.

    The text goes after the commit, so that no job needs it, and under the lock, so that it is not the text of somebody
    who has added the data set again.
    """
    with stores.database.write() as session:
        if datasets.lock_purged(session, digest):
            stores.artifacts.remove(digest)


def _remove_unregistered(texts: RowTexts, dataset: values.Dataset, stores: Stores) -> None:
    """Remove other blobs with rows that no data set refers to: of submissions that failed, or of a moment ago."""
    if not len(texts):
        return
    unreferenced = Unreferenced(stores, is_exact=False)
    for blobs in unreferenced.scan("blobs"):
        found = [blob for blob in blobs if blob.digest != dataset.digest and _has_rows_of(texts, blob, stores)]
        for blob in found:
            with stores.database.write() as session:
                artifact_lock.own(session)
                if unreferenced.keep_unreferenced(session, [blob]):
                    stores.artifacts.remove(blob.digest)


def _has_rows_of(texts: RowTexts, blob: StoredArtifact, stores: Stores) -> bool:
    if not has_rows(stores.artifacts, blob.digest):
        return False
    return texts.count_in(_until_damage(stores.artifacts.read_lines(blob.digest))) > 0
