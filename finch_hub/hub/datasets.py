"""Data sets: stored under the hash of their examples, listed, purged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from finch_hub.engine.data.chat import with_system
from finch_hub.hub.examples import (
    DataSource,
    Progress,
    complete_options,
    read_examples,
    register_examples,
    store_examples,
)
from finch_hub.registry import datasets, values
from finch_hub.specs.reading import ReadingOptions
from finch_hub.specs.references import check_name
from finch_hub.specs.reports import ReadingReport

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class AddedDataset(values.Dataset):
    """A stored data set, and how its rows were read."""

    reading: ReadingReport


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
        progress: Progress | None = None,
        **options: Unpack[ReadingOptions],
    ) -> AddedDataset:
        """Check a data set and store it.

        Rows that cannot be used, and columns without a meaning, are told as a `DataWarning` and in the result.

        Args:
            data: a file or folder, "-" for standard input, or rows: (prompt, completion) pairs, mappings, examples, an
                iterator or a table of them.
            system: system prompt of the examples that have none. It is stored with them.
            progress: called with the number of rows that were read, every few thousand rows.
            options: fields of `ReadingConfig`: row format, names of columns, encoding and others.

        Raises:
            InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
        """
        if name is not None:
            check_name(name, kind="data set")
        config = complete_options(options, self._stores)
        found = read_examples(data, self._stores, config, progress=progress)
        examples = tuple(
            example.evolve(messages=with_system(example.messages, system)) if example.messages else example
            for example in found.examples
        )
        stored = store_examples(examples, self._stores, format_name=config.format)
        with self._stores.database.write() as session:
            dataset = register_examples(session, stored, name=name)
        return AddedDataset(**dict(dataset), reading=found.report)

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

    def purge(self, name: str) -> values.Dataset:
        """Delete the text of a data set. Its hash and figures stay in the lineage of the adapters trained on it.

        Raises:
            NotFound: there is no such data set.
            Conflict: an unfinished job needs it.
        """
        with self._stores.database.write() as session:
            purged = datasets.purge(session, name)
        self._stores.artifacts.remove(purged.digest)
        return purged
