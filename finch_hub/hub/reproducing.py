"""Requests for reproductions: whether a version's lineage tells how it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import datasets
from finch_hub.specs.jobs import ReproduceSpec

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores


def check_reproduction(version: AdapterVersion, stores: Stores) -> ReproduceSpec:
    """Check that a version can be made again and return the job's specification; see `Hub.reproduce`."""
    if version.kind == "import":
        what = "was imported, so its lineage does not tell how it was made"
        raise errors.Incompatible(errors.Problem(where=version.reference, what=what))
    for digest in (version.lineage.train_digest, version.lineage.validation_digest):
        if version.kind == "train" and digest:
            with stores.database.read() as session:
                is_purged = datasets.get(session, digest).purged_at is not None
            if is_purged:
                what = f"cannot reproduce adapter {version.reference}: the data set {digest[:12]} was purged"
                raise errors.Conflict(what)
    return ReproduceSpec(adapter=version.reference)
