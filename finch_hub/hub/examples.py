"""Examples as users give them: files, names of stored data sets, or values; checked, then stored by their hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.data import formats, reading
from finch_hub.registry import datasets, values
from finch_hub.specs.examples import Example, Pairs, examples_of

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

Data = str | Path | Pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Examples whose canonical bytes lie in the artefact store."""

    digest: str
    format: str
    examples: int
    bytes: int


def read(
    data: Data, stores: Stores, *, format_name: str | None = None, split: reading.Split = "train"
) -> tuple[Example, ...]:
    """Return the examples of a file or folder, of a stored data set (by name or digest), or of values given directly.

    Raises:
        NotFound: there is no such file, data set or format.
        InvalidDataset: with one problem for each line or item that cannot be used.
        Conflict: the data set was purged.

    """
    if not isinstance(data, str | Path):
        return examples_of(data)
    path = Path(data).expanduser()
    if path.exists():
        known = [
            formats.Format(name=name, fields=descriptor.recognizes, convert=descriptor.load())
            for name, descriptor in stores.catalog.dataset_formats.items()
        ]
        return reading.read_examples(path, formats=known, format_name=format_name, split=split)
    try:
        with stores.database.read() as session:
            found = datasets.get(session, str(data))
    except errors.NotFound as error:
        beside = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise errors.NotFound("data file or data set", str(data), [*beside, *error.near]) from None
    if found.purged_at is not None:
        raise errors.Conflict(f"data set {data} was purged: only its hash and figures are left")
    return reading.load_examples(stores.artifacts.get(found.digest))


def has_validation(data: Data) -> bool:
    """Tell whether it is a folder that brings held-out data of its own."""
    return isinstance(data, str | Path) and reading.has_validation(Path(data).expanduser())


def store(examples: tuple[Example, ...], stores: Stores, *, format_name: str | None = None) -> Stored:
    """Put the examples into the artefact store in their canonical form."""
    content = reading.dump_examples(examples)
    return Stored(
        digest=stores.artifacts.put(content),
        format=format_name or "messages",
        examples=len(examples),
        bytes=len(content),
    )


def register(session: Session, stored: Stored, *, name: str | None = None) -> values.Dataset:
    """Enter stored examples into the registry."""
    return datasets.add(
        session, digest=stored.digest, format=stored.format, examples=stored.examples, size=stored.bytes, name=name
    )
