"""Held-out rows of one adapter that another adapter was trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from finch_hub import errors
from finch_hub.registry.values import AdapterVersion
from finch_hub.storage.stores import Stores


def find_shared_rows(versions: Sequence[AdapterVersion], stores: Stores) -> tuple[str, ...]:
    """Return a sentence for each version whose held-out rows another version was trained on.

    Rows are compared as they are stored. Held-out rows are kept in memory, and training data is read row by row.
    Versions whose data was purged or cannot be read are not compared.
    """
    held_out = [_read_rows(version.lineage.validation_digest, stores) for version in versions]
    sentences = []
    for trained in {version.lineage.train_digest for version in versions} - {None}:
        others = [
            [v.reference for v in versions if v is not version and v.lineage.train_digest == trained]
            for version in versions
        ]
        wanted = [rows if names else frozenset() for rows, names in zip(held_out, others, strict=True)]
        found = _read_rows(trained, stores, among=frozenset().union(*wanted)) if any(wanted) else frozenset()
        for version, rows, names in zip(versions, wanted, others, strict=True):
            if shared := len(rows & found):
                what = f"{shared:,} of {len(rows):,} held-out rows of {version.reference} are in the training data"
                fix = "train them with one validation file, or with the same seed and share"
                sentences.append(f"{what} of {' and '.join(names)}, so its retention is too high ({fix})")
    return tuple(sorted(sentences))


def _read_rows(digest: str | None, stores: Stores, among: frozenset[bytes] | None = None) -> frozenset[bytes]:
    """Return the rows of a data set, or those of them that are among others. There are none if it cannot be read."""
    if digest is None:
        return frozenset()
    lines = stores.artifacts.read_lines(digest)
    with contextlib.suppress(errors.FinchError):  # an advice must not stop what it is about
        return frozenset(lines) if among is None else among.intersection(lines)
    return frozenset()
