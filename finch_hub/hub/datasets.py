"""Data sets: stored under the hash of their examples, listed, purged."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from finch_hub.engine.data.chat import with_system
from finch_hub.engine.data.data_folders import Split
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.hub.examples import (
    DataSource,
    Progress,
    StoredExamples,
    check_system,
    complete_options,
    has_validation,
    hold_sources,
    read_examples,
    register_examples,
    store_examples,
)
from finch_hub.registry import datasets, values
from finch_hub.specs.examples import Example
from finch_hub.specs.licenses import check_license
from finch_hub.specs.reading import ReadingOptions
from finch_hub.specs.references import check_name
from finch_hub.specs.reports import ReadingReport
from finch_hub.storage.changes import Change, changing

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.specs.previews import DataPreview
    from finch_hub.storage.purging import PurgedDataset
    from finch_hub.storage.stores import Stores


class AddedDataset(values.Dataset):
    """A stored data set, and how its rows were read.

    Attributes:
        is_new: whether these examples were not stored before.
        moved_from: digest of the data set that had the name before.
        renamed_from: what named these examples before, if they were stored under another name: the name, or the digest
            of a data set without a name.
        validation: the validation split of a folder or mapping of splits, which is a data set of its own.
    """

    reading: ReadingReport
    is_new: bool = True
    moved_from: str | None = None
    renamed_from: str | None = None
    validation: AddedDataset | None = None


class Datasets:
    """The data sets that the hub has stored, including those of jobs."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def add(
        self,
        data: DataSource,
        *,
        name: str | None = None,
        system: str | None = None,
        license: str | None = None,  # noqa: A002  (as everywhere)
        replace: bool = False,
        progress: Progress | None = None,
        **options: Unpack[ReadingOptions],
    ) -> AddedDataset:
        """Check a data set and store it.

        Rows that cannot be used, and columns without a meaning, are told as a `DataWarning` and in the result. The
        validation split of a folder, or of a mapping of splits, becomes a second data set, `NAME-validation`.

        Args:
            data: a file or folder, "-" for standard input, or rows: (prompt, completion) pairs, mappings, examples, an
                iterator or a table of them. The name or digest of a stored data set gives it a name.
            name: name of the data set. The same examples can be added again under their name.
            license: identifier of the license of the data, such as cc-by-4.0, or another name. None keeps an earlier
                one.
            replace: whether a name that other examples have moves to these, and these lose another name that they have.
            system: system prompt of the examples that have none. It is stored with them.
            progress: called with the number of rows that were read, every few thousand rows.
            options: fields of `ReadingConfig`: row format, names of columns, encoding and others.

        Raises:
            InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
            Conflict: the name is that of other examples, or the examples have another name.
        """
        with changing(self._stores, "dataset.add", name or "-", license=license) as change:
            return self._add(
                data,
                change,
                name=name,
                system=system,
                given_license=None if license is None else check_license(license),
                replace=replace,
                progress=progress,
                **options,
            )

    def preview(
        self,
        data: DataSource,
        *,
        base: str | Path,
        revision: str | None = None,
        system: str | None = None,
        max_length: int | None = None,
        limit: int = 3,
        progress: Progress | None = None,
        **options: Unpack[ReadingOptions],
    ) -> DataPreview:
        """Return the first rows of some data as a base sees them. Nothing is stored, and no model is loaded.

        Args:
            data: data in the forms that `add` takes, or the name of a stored data set.
            base: base in the forms that `Hub.train` takes, whose files are on this machine.
            revision: revision of a Hugging Face id.
            system: system prompt of the examples that have none.
            max_length: number of tokens to which rows are cut; None means the base's context, at most 2,048.
            limit: largest number of rows.
            progress: called with the number of rows that were read, every few thousand rows.
            options: fields of `ReadingConfig`.

        Raises:
            InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
            NotFound: there is no such data set or base.
            Unavailable: the files of the base are not on this machine.
        """
        from finch_hub.hub.previewing import preview_data

        return preview_data(
            data,
            base=base,
            revision=revision,
            system=system,
            max_length=max_length,
            limit=limit,
            options=options,
            progress=progress,
            stores=self._stores,
        )

    def _add(
        self,
        data: DataSource,
        change: Change,
        *,
        name: str | None,
        system: str | None,
        given_license: str | None,
        replace: bool,
        progress: Progress | None,
        **options: Unpack[ReadingOptions],
    ) -> AddedDataset:
        check_system(system)
        config = complete_options(options, self._stores)
        is_split = has_validation(data, self._stores, config)
        splits: tuple[Split, ...] = ("train", "validation") if is_split else ("train",)
        names = (name, f"{name}-validation")[: len(splits)] if name is not None else (None, None)
        for part_name in filter(None, names):
            check_name(part_name, kind="data set")
        also_read: Split | None = splits[-1] if len(splits) > 1 else None
        made_of: set[str] = set()
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(ExampleFile()) for _ in splits]
            reports = [
                read_examples(
                    data,
                    self._stores,
                    config,
                    functools.partial(_keep, file, system),
                    split=split,
                    also_read=also_read,
                    prefers_file=True,
                    progress=progress,
                    checks_ignored=split == "train",
                    made_of=made_of,
                )
                for split, file in zip(splits, files, strict=True)
            ]
            parts = [
                store_examples(file, self._stores, read, made_of=made_of)
                for file, read in zip(files, reports, strict=True)
            ]
        with change.write() as session:
            hold_sources(session, parts)
            added = [
                _register(
                    session,
                    stored,
                    self._stores,
                    split=split,
                    name=part_name,
                    given_license=given_license,
                    replace=replace,
                    report=report,
                )
                for stored, split, part_name, report in zip(parts, splits, names, reports, strict=False)
            ]
            first = added[0]
            change.on = first.name or first.digest
            change.details |= {"digests": [part.digest for part in added], "moved_from": first.moved_from}
        return added[0].model_copy(update={"validation": added[1]}) if len(added) > 1 else added[0]

    def get(self, name: str) -> values.Dataset:
        """Return the data set with this name or with a digest that begins with it.

        Raises:
            NotFound: there is no such data set.
        """
        with self._stores.database.read() as session:
            return datasets.get(session, name)

    def find(self, *, limit: int = 100) -> list[values.Dataset]:
        """Return the data sets, newest first."""
        with self._stores.database.read() as session:
            return datasets.find(session, limit=limit)

    def purge(self, name: str) -> PurgedDataset:
        """Delete the text of a data set, and every copy of its rows that the hub has.

        Copies are in data that jobs stored, such as the halves of a split, in events, reports, figures and cards, in
        folders of jobs and in logs. A data set that you added stays if it has a name or other rows: the result names
        it. The hash and the figures stay in the lineage of the adapters that were trained on it. Backups, exports and
        what other programs keep are not changed.

        Raises:
            NotFound: there is no such data set.
            Conflict: an unfinished job needs it, or a part of it.
        """
        from finch_hub.storage.purging import purge_dataset
        from finch_hub.workers.supervision.work_folders import WorkFolders

        with changing(self._stores, "dataset.purge", name) as change:
            purged = purge_dataset(name, change, self._stores)
        WorkFolders(self._stores.settings.work).end_finished(self._stores.database)
        self._stores.tidy()
        return purged


def _register(
    session: Session,
    stored: StoredExamples,
    stores: Stores,
    *,
    split: Split,
    name: str | None,
    given_license: str | None,
    replace: bool,
    report: ReadingReport,
) -> AddedDataset:
    known = datasets.find_digest(session, stored.digest)
    if split == "validation" and known is not None and known.name and not replace:
        name = known.name  # a validation split may have been added by itself
    holder = datasets.find_named(session, name) if name is not None else None
    dataset = register_examples(session, stored, stores, name=name, replace=replace)
    if given_license is not None:
        dataset = datasets.set_license(session, dataset.digest, given_license)
    is_new = known is None or known.purged_at is not None
    return AddedDataset(
        **dict(dataset),
        reading=report,
        is_new=is_new,
        moved_from=holder.digest if holder is not None and holder.digest != dataset.digest else None,
        renamed_from=(known.name or known.digest) if known and not is_new and known.name != dataset.name else None,
    )


def _keep(file: ExampleFile, system: str | None, example: Example) -> None:
    """Write an example to a file, with the system prompt if it has none."""
    if system is not None and example.messages:
        example = example.evolve(messages=with_system(example.messages, system))
    file.add(example)
