"""Examples that pass from the supervisor to the child as files of the attempt's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.data import reading
from finch_hub.specs.examples import Example

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores


def fetch_data(digest: str, file: Path, stores: Stores) -> Path:
    """Write stored examples to a file whose folder may not exist yet, and return the file.

    Raises:
        NotFound: the examples are gone.
    """
    data = stores.artifacts.get(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def fetch_validation(version: AdapterVersion, file: Path, stores: Stores) -> Path | None:
    """Write the held-out examples of a version to a file; return None where there are none, or they were purged."""
    digest = version.lineage.validation_digest
    if digest is None:
        return None
    try:
        return fetch_data(digest, file, stores)
    except errors.NotFound:
        return None


def read_examples(file: Path | None) -> tuple[Example, ...]:
    """Return the examples of a file that `fetch_data` wrote; none without a file."""
    return reading.load_examples(file.read_bytes()) if file is not None else ()
