"""Reproductions: whether all that a version was made of is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import adapter_deletion, adapter_versions, datasets, lineage, values
from finch_hub.specs.jobs import ReproduceSpec
from finch_hub.specs.references import AdapterReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores


# What has no name, such as the halves of a split, only a job stores.
_RETRAIN = "a training on the same data, with the same seed and held-out share, stores it again"


def check_reproduction(adapter: str, *, stores: Stores) -> tuple[ReproduceSpec, tuple[str, ...]]:
    """Return the specification of a reproduction, and the digests of the data sets that it reads.

    Raises:
        Incompatible: the version was imported.
        Conflict: its data or its parents were deleted or purged; the text has all reasons.
        NotFound: there is no such adapter.
    """
    with stores.database.read() as session:
        version = adapter_versions.resolve(session, adapter)
        if version.kind == "import":
            what = "was imported, so its lineage does not tell how it was made"
            raise errors.Incompatible(what, where=version.reference)
        made = version.lineage
        digests = (made.train_digest, made.validation_digest) if version.kind == "train" else ()
        read = tuple(filter(None, digests))
        has_come = isinstance(version.spec.get("bundle"), dict)
        reasons = [*_explain_data(session, read, has_come=has_come), *_explain_parents(session, version)]
    adapter_deletion.refuse(f"cannot reproduce adapter {version.reference}", reasons)
    return ReproduceSpec(adapter=version.reference), read


def _explain_data(session: Session, digests: tuple[str, ...], *, has_come: bool) -> Iterator[str]:
    """Yield why data cannot be read.

    Args:
        has_come: whether the version came with a bundle, which has no data.
    """
    for digest in digests:
        dataset = datasets.find_digest(session, digest)
        if dataset is None and has_come:
            yield f"the data set {digest[:12]} was never in this hub, since a bundle has no data ({_RETRAIN})"
        elif dataset is None:
            yield f"the data set {digest[:12]} was removed ({_RETRAIN})"
        elif dataset.purged_at is not None:
            fix = f"add the data of {dataset.name} again" if dataset.name is not None else _RETRAIN
            yield f"the data set {digest[:12]} was purged ({fix})"


def _explain_parents(session: Session, version: values.AdapterVersion) -> Iterator[str]:
    parents = {parent.reference for parent in version.lineage.parents}
    for parent in lineage.read_graph(session, version.reference).versions if parents else ():
        if parent.reference not in parents or parent.deleted_at is None:
            continue
        if parent.purged_at is not None:
            yield f"its parent {parent.reference} was purged"
        else:
            missing = adapter_versions.explain_missing(session, AdapterReference.parse(parent.reference))
            yield f"its parent {parent.reference} is missing: {missing}"
