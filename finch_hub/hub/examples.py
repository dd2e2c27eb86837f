"""Examples as users give them: checked, then stored under the hash of their canonical bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors, settings
from finch_hub.engine.data import reading, row_formats
from finch_hub.registry import datasets, values
from finch_hub.specs.examples import Example, Pairs, examples_of

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

DataSource = str | Path | Pairs
"""A file or folder, the name or digest of a stored data set, or the examples themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredExamples:
    """Examples whose canonical bytes are in the artifact store."""

    digest: str
    format: str
    examples: int
    bytes: int


def read_examples(
    data: DataSource, stores: Stores, *, format_name: str | None = None, split: reading.Split = "train"
) -> tuple[Example, ...]:
    """Return the examples of a data source.

    Raises:
        NotFound: there is no such file, data set or format.
        InvalidDataset: with one problem for each line or item that cannot be used.
        Conflict: the data set was purged.
    """
    if not isinstance(data, str | Path):
        return examples_of(data)
    path = settings.expand_home(data)
    if str(data) and path.exists():  # an empty text does not mean the current folder
        known_formats = [
            row_formats.RowFormat(name=name, fields=descriptor.recognizes, convert=descriptor.load())
            for name, descriptor in stores.catalog.dataset_formats.items()
        ]
        return reading.read_examples(path, formats=known_formats, format_name=format_name, split=split)
    try:
        with stores.database.read() as session:
            dataset = datasets.get(session, str(data))
    except errors.NotFound as error:
        siblings = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise errors.NotFound("data file or data set", str(data), [*siblings, *error.near]) from None
    if dataset.purged_at is not None:
        raise errors.Conflict(f"data set {data} was purged: only its hash and figures are left")
    return reading.load_examples(stores.artifacts.get(dataset.digest))


def has_validation(data: DataSource) -> bool:
    """Tell whether the data is a folder with a validation split of its own."""
    return isinstance(data, str | Path) and reading.has_validation(settings.expand_home(data))


def store_examples(examples: tuple[Example, ...], stores: Stores, *, format_name: str | None = None) -> StoredExamples:
    """Store the canonical bytes of the examples."""
    content = reading.dump_examples(examples)
    return StoredExamples(
        digest=stores.artifacts.put(content),
        format=format_name or "messages",
        examples=len(examples),
        bytes=len(content),
    )


def register_examples(session: Session, stored: StoredExamples, *, name: str | None = None) -> values.Dataset:
    """Register stored examples as a data set."""
    return datasets.add(
        session, digest=stored.digest, format=stored.format, examples=stored.examples, size=stored.bytes, name=name
    )
