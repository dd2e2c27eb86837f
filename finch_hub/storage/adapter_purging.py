"""Purges of adapters: of their rows, and of the files that nothing else refers to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finch_hub import errors
from finch_hub.artifacts.inventory import StoredArtifact, find_artifact
from finch_hub.formats.folder_removal import remove_folder
from finch_hub.registry import adapter_purges
from finch_hub.registry.adapter_purges import PurgedRows
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import Value
from finch_hub.storage.changes import Change
from finch_hub.storage.stores import Stores
from finch_hub.storage.unreferenced import Unreferenced


class PurgedAdapter(Value):
    """A version or an adapter that was purged.

    Attributes:
        reference: `name/3` for a version, `name` for an adapter.
        versions: references of the versions that were purged.
        bytes: size of the files that were removed. Files that others refer to stay.
        unfreed: why the files are still there, for the next collection to remove; None if they are gone.
    """

    reference: str
    versions: tuple[str, ...]
    bytes: int
    unfreed: str | None = None


def purge_adapter(
    reference: AdapterReference, change: Change, stores: Stores, *, expected: Sequence[str] | None = None
) -> PurgedAdapter:
    """Purge a version, or an adapter with all its versions, and free the bytes that nothing else refers to.

    Args:
        expected: versions that may go; None for all that there are.

    Raises:
        NotFound: there is no such version or adapter.
        Deleted: it is purged already.
        Conflict: something depends on it; the text has all reasons.
        Unavailable: the database does not answer.
    """
    with change.write() as session:
        purged = adapter_purges.purge(session, reference)
        if expected is not None and (more := sorted(set(purged.versions) - set(expected))):
            what = f"adapter {reference} has got versions meanwhile: {', '.join(more)}"
            raise errors.Conflict(f"{what} (look at them, and purge again)")
        change.details["versions"] = len(purged.versions)
    size, unfreed = 0, None
    try:
        size = _remove_files(purged, stores)
    except errors.FinchError as error:  # the rows are purged, and a collection removes the files
        unfreed = str(error)
    return PurgedAdapter(reference=str(reference), versions=purged.versions, bytes=size, unfreed=unfreed)


def _remove_files(purged: PurgedRows, stores: Stores) -> int:
    """Remove the files and samples of purged versions that nothing refers to, and return their size."""
    unreferenced = Unreferenced(stores, kept_seconds=None)
    samples = (find_artifact(stores.artifacts, "blobs", digest) for digest in purged.samples)
    files = (artifact for tree in purged.trees for artifact in _list_artifacts(tree, stores))
    found = [artifact for artifact in dict.fromkeys([*samples, *files]) if artifact is not None]
    # The blobs go first: only the manifests name them, if this is interrupted and a collection goes on.
    found.sort(key=lambda artifact: artifact.kind == "trees")
    removed = list(unreferenced.remove(found))
    for artifact in removed:
        folder = stores.settings.cache / "artifacts" / artifact.digest
        if artifact.kind == "trees" and folder.is_dir():
            remove_folder(folder)
    return sum(artifact.size for artifact in removed)


def _list_artifacts(tree: str, stores: Stores) -> Iterator[StoredArtifact]:
    """Yield a tree and its blobs as they are stored."""
    try:
        entries = stores.artifacts.tree(tree)
    except (errors.MissingArtifact, errors.RefusedArtifact):  # without a manifest, nobody knows its blobs
        entries = {}
    for kind, digest in [("trees", tree), *(("blobs", entry.digest) for entry in entries.values())]:
        artifact = find_artifact(stores.artifacts, "trees" if kind == "trees" else "blobs", digest)
        if artifact is not None:
            yield artifact
