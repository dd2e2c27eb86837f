"""Sample answers of versions in the artifact store. They quote rows, so they are purged with them."""

from __future__ import annotations

from collections.abc import Iterable

from finch_hub import errors
from finch_hub.artifacts.inventory import find_artifact
from finch_hub.registry import adapter_versions, artifact_lock, evidence
from finch_hub.registry.database import Session
from finch_hub.registry.evidence import StoredSamples
from finch_hub.specs.evidence import Samples
from finch_hub.storage.row_texts import RowTexts
from finch_hub.storage.stores import Stores


def read_samples(digest: str, stores: Stores) -> Samples:
    """Return stored sample answers.

    Raises:
        NotFound: they are gone, as those of a deleted version.
        RefusedArtifact: their bytes have changed.
        InvalidSpec: a later version of Finch Hub wrote them.
    """
    return Samples.of_stored(stores.artifacts.get(digest), subject="sample answers")


def read_samples_of(session: Session, reference: str, stores: Stores) -> Samples:
    """Return the sample answers of a version, with the name that the version has now that answered before.

    Raises:
        NotFound: there is no such version.
        Conflict: it has no sample answers, or they were purged.
    """
    found, digest = evidence.find(session, reference)
    if digest is None:
        why = "its training kept none (train with samples=4)"
        if found.samples == "purged":
            why = "they were purged with the data that they quote (train again, with other data)"
        raise errors.Conflict(f"adapter {found.adapter} has no sample answers: {why}")
    samples = read_samples(digest, stores)
    parents = adapter_versions.get_row(session, found.adapter, deleted=True).parents
    if samples.start is None or len(parents) != 1 or parents[0].reference is None:
        return samples
    return samples.evolve(start=parents[0].reference)


def parse_bundled(data: bytes, num_parents: int) -> Samples:
    """Return the sample answers of a version in a bundle.

    Raises:
        InvalidSpec: they are no sample answers, or say that a version answered before which nobody can tell.
    """
    samples = Samples.of_stored(data)
    if samples.start is not None and num_parents != 1:
        parents = "several parents" if num_parents else "no parent"
        raise errors.InvalidSpec(f"is {samples.start}, and the version has {parents}", where="start")
    return samples


def purge_samples(texts: RowTexts, stores: Stores, *, before: float) -> int:
    """Remove the sample answers that quote rows, or whose version was made of data that is purged.

    Args:
        before: time by the clock of the store. Files that were written later stay, since somebody may register them.

    Returns:
        The number of versions that lost their sample answers.
    """
    num_changed, last = 0, 0
    while True:
        with stores.database.read() as session:
            page = evidence.list_samples(session, after=last)
        if not page:
            return num_changed
        last = page[-1].version_id
        unwanted = {found.digest for found in page if found.is_of_purged or _quotes(texts, found, stores)}
        for digest in sorted(unwanted):
            num_changed += _purge(digest, stores, before)


def _quotes(texts: RowTexts, found: StoredSamples, stores: Stores) -> bool:
    if not len(texts):
        return False
    try:
        samples = read_samples(found.digest, stores)
    except (errors.MissingArtifact, errors.RefusedArtifact, errors.InvalidSpec):
        return True  # nobody can read them
    return any(texts.are_in(list(_list_texts(samples))))


def _list_texts(samples: Samples) -> Iterable[str]:
    for sample in samples.samples:
        yield from (sample.prompt, sample.expected, sample.before, sample.after)


def _purge(digest: str, stores: Stores, before: float) -> int:
    with stores.database.write() as session:
        artifact_lock.own(session)  # who registers a version shares it
        blob = find_artifact(stores.artifacts, "blobs", digest)
        if blob is not None and blob.modified is not None and blob.modified > before:
            return 0
        num_changed = evidence.forget_samples(session, [digest])
        if blob is not None:
            stores.artifacts.remove(digest)  # before the commit, so that an interrupted purge finds them again
        return num_changed
