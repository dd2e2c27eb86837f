"""Data sets: stored by the hash of their examples, listed, purged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub.hub import examples as data_module
from finch_hub.registry import datasets, values
from finch_hub.specs.references import check_name

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Datasets:
    """The data sets that the hub has stored; those of jobs are among them."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def add(self, data: data_module.Data, *, name: str | None = None, format: str | None = None) -> values.Dataset:  # noqa: A002
        """Check a data set and store it.

        Raises:
            InvalidDataset: with one problem for each line or item that cannot be used.

        """
        if name is not None:
            check_name(name, kind="data set")
        examples = data_module.read(data, self._stores, format_name=format)
        stored = data_module.store(examples, self._stores, format_name=format)
        with self._stores.database.write() as session:
            return data_module.register(session, stored, name=name)

    def get(self, name: str) -> values.Dataset:
        """Return the data set with that name, or whose digest begins so.

        Raises:
            NotFound: there is none.

        """
        with self._stores.database.read() as session:
            return datasets.get(session, name)

    def find(self, *, limit: int = 100) -> list[values.Dataset]:
        """Return data sets, newest first."""
        with self._stores.database.read() as session:
            return datasets.find(session, limit=limit)

    def purge(self, name: str) -> values.Dataset:
        """Remove the text of a data set; its hash and figures stay, for the lineage of what it trained.

        Raises:
            NotFound: there is none.
            Conflict: an unfinished job needs it.

        """
        with self._stores.database.write() as session:
            purged = datasets.purge(session, name)
        self._stores.artifacts.remove(purged.digest)
        return purged
