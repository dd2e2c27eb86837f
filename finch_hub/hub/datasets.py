"""Data sets: stored under the hash of their examples, listed, purged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub.hub.examples import DataSource, read_examples, register_examples, store_examples
from finch_hub.registry import datasets, values
from finch_hub.specs.references import check_name

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Datasets:
    """The data sets that the hub has stored, including those of jobs."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def add(self, data: DataSource, *, name: str | None = None, format: str | None = None) -> values.Dataset:  # noqa: A002
        """Check a data set and store it.

        Args:
            data: a file or folder, or (prompt, completion) pairs, mappings or examples.
            format: row format; None recognizes the format of each row by its fields.

        Raises:
            InvalidDataset: with one problem for each line or item that cannot be used.
        """
        if name is not None:
            check_name(name, kind="data set")
        examples = read_examples(data, self._stores, format_name=format)
        stored = store_examples(examples, self._stores, format_name=format)
        with self._stores.database.write() as session:
            return register_examples(session, stored, name=name)

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
