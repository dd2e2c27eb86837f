"""Versions whose files a job needs, in the supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import adapter_versions, values

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


def fetch_version(reference: str, stores: Stores) -> tuple[values.AdapterVersion, Path]:
    """Return a version of an adapter, and a local folder with its files.

    Raises:
        NotFound: there is no such version, or its files are gone.
    """
    with stores.database.read() as session:
        version = adapter_versions.resolve(session, reference)
    return version, stores.artifacts.fetch_tree(version.digest)


def fetch_files(reference: str, stores: Stores) -> tuple[values.VersionFiles, Path]:
    """Return the files and the base of a version, and a local folder with the files.

    Raises:
        NotFound: there is no such version, or its files are gone.
    """
    with stores.database.read() as session:
        found = adapter_versions.resolve_files(session, reference)
    return found, stores.artifacts.fetch_tree(found.digest)


def check_one_base(versions: Sequence[values.VersionFiles]) -> None:
    """Check that all adapters have the base of the first.

    Raises:
        Incompatible: with one problem for each adapter of another base.
    """
    first = versions[0]
    problems = [
        errors.Problem(where=version.reference, what=f"is for {version.base.name}, not for {first.base.name}")
        for version in versions[1:]
        if version.base.fingerprint != first.base.fingerprint
    ]
    if problems:
        raise errors.Incompatible(problems, subject="adapters of different bases")
