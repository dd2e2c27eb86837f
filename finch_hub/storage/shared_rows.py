"""Held-out rows of one adapter that another adapter was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub import errors
from finch_hub.registry.values import AdapterVersion
from finch_hub.storage.stores import Stores


def find_shared_rows(versions: Sequence[AdapterVersion], stores: Stores) -> tuple[str, ...]:
    """Return a sentence for each version whose held-out rows another version was trained on.

    Rows are compared as they are stored. Versions whose data was purged are not compared.
    """
    held_out = [_read_rows(version.lineage.validation_digest, stores) for version in versions]
    sentences = []
    for trained in {version.lineage.train_digest for version in versions} - {None}:
        rows = _read_rows(trained, stores)
        for version, validation in zip(versions, held_out, strict=True):
            others = [v.reference for v in versions if v is not version and v.lineage.train_digest == trained]
            if others and (shared := sum(row in rows for row in validation)):
                what = (
                    f"{shared:,} of {len(validation):,} held-out rows of {version.reference} are in the training data"
                )
                fix = "train them with one validation file, or with the same seed and share"
                sentences.append(f"{what} of {' and '.join(others)}, so its retention is too high ({fix})")
    return tuple(sorted(sentences))


def _read_rows(digest: str | None, stores: Stores) -> frozenset[bytes]:
    try:
        return frozenset(stores.artifacts.get(digest).splitlines()) if digest else frozenset()
    except errors.NotFound:
        return frozenset()
