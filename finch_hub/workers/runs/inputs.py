"""Inputs of jobs: versions and examples, which the supervisor brings to local files for the child."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.specs.examples import Example

if TYPE_CHECKING:
    from finch_hub.registry import values
    from finch_hub.specs.jobs import Job
    from finch_hub.storage.stores import Stores

# What takes long to import is imported late: every child imports this module.


def fetch_version(reference: str, stores: Stores) -> tuple[values.AdapterVersion, Path]:
    """Return a version of an adapter, and a local folder with its files.

    Raises:
        NotFound: there is no such version, or its files are gone.
        Conflict: the version is unchecked.
    """
    from finch_hub.registry import adapter_versions

    with stores.database.read() as session:
        version = adapter_versions.resolve_usable(session, reference)
    return version, stores.artifacts.fetch_tree(version.digest)


def fetch_files(references: Sequence[str], stores: Stores) -> tuple[values.Base, list[Path]]:
    """Return the one base of some versions, and local folders with their files.

    Raises:
        NotFound: there is no such version, or its files are gone.
        Incompatible: with one problem for each adapter that has another base than the first.
    """
    from finch_hub.registry import adapter_versions

    with stores.database.read() as session:
        found = [adapter_versions.resolve_files(session, reference) for reference in references]
    base = found[0].base
    problems = [
        errors.Problem(where=version.reference, what=f"is for {version.base.name}, not for {base.name}")
        for version in found
        if version.base.fingerprint != base.fingerprint
    ]
    if problems:
        raise errors.Incompatible(problems, subject="adapters of different bases")
    return base, [stores.artifacts.fetch_tree(version.digest) for version in found]


def fetch_examples(digest: str, file: Path, stores: Stores) -> Path:
    """Write stored examples to a file whose folder may not exist yet, and return the file.

    Raises:
        NotFound: the examples are gone.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as target:
        target.writelines(stores.artifacts.read_lines(digest))
    return file


def fetch_validation(
    version: values.AdapterVersion, file: Path, stores: Stores, *, job: Job | None = None
) -> Path | None:
    """Write the held-out examples of a version to a file. Return None if there are none, or they were purged.

    Args:
        job: job that reads them, until whose end they cannot be purged.
    """
    digest = version.lineage.validation_digest
    if digest is None:
        return None
    if job is not None:
        from finch_hub.registry import datasets

        with stores.database.write() as session:
            if not datasets.hold_for_job(session, job.id, digest):
                return None
    try:
        return fetch_examples(digest, file, stores)
    except errors.NotFound:
        return None


def read_examples(file: Path | None) -> Sequence[Example]:
    """Return the examples of a file that `fetch_examples` wrote, none if there is no file."""
    from finch_hub.engine.data.example_file import ExampleFile

    return ExampleFile(file) if file is not None else ()
