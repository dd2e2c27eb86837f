"""What several kinds of jobs have in common on the supervisor's side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.registry import adapters, bases, jobs, values
from finch_hub.specs.jobs import BaseModelSource

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores


def base_order(source: BaseModelSource, stores: Stores) -> dict[str, Any]:
    """Return what a child needs to load a base.

    `source`; `key`, by which it is known as warm; `cache`; `fetch`, a plugin's target, or None; and `fingerprint`,
    which it must have, or None.

    Raises:
        NotFound: no base source knows how to fetch it.

    """
    catalog = stores.catalog
    descriptor = catalog.base_source_of(source.source)
    built_in = catalog.base_sources.plugin_of(descriptor.name) == "finch-hub"
    return {
        "source": source.model_dump(mode="json"),
        "key": jobs.key_of_base(source),
        "cache": str(stores.bases),
        "fetch": None if built_in else descriptor.target,
        "fingerprint": None,
    }


def base_order_of(base: values.Base, stores: Stores) -> dict[str, Any]:
    """Return the same for the base of a registered version, with the fingerprint that it must have."""
    source = BaseModelSource(source=base.source, revision=base.revision)
    return base_order(source, stores) | {"fingerprint": base.fingerprint}


def register_base(session: Session, described: dict[str, Any]) -> values.Base:
    """Register the base that a child described."""
    return bases.add(session, **described)


def fetch_version(reference: str, stores: Stores) -> tuple[values.AdapterVersion, Path]:
    """Return a version of an adapter, and a local folder with its files.

    Raises:
        NotFound: there is no such version, or its artefact is gone.

    """
    with stores.database.read() as session:
        version = adapters.resolve(session, reference)
    return version, stores.artifacts.fetch_tree(version.digest)


def fetch_files(reference: str, stores: Stores) -> tuple[values.VersionFiles, Path]:
    """Return the same of a version whose files and base are all that the job needs.

    Raises:
        NotFound: there is no such version, or its artefact is gone.

    """
    with stores.database.read() as session:
        found = adapters.files(session, reference)
    return found, stores.artifacts.fetch_tree(found.digest)


def base_of(reference: str, session: Session) -> values.Base:
    """Return the base of a version."""
    return adapters.files(session, reference).base


def fetch_data(digest: str, file: Path, stores: Stores) -> str:
    """Write stored examples to a file of an attempt's folder, which need not be there yet, and return its path.

    Raises:
        NotFound: they are gone.

    """
    data = stores.artifacts.get(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return str(file)


def fetch_validation(version: values.AdapterVersion, file: Path, stores: Stores) -> str | None:
    """Write the examples that a version was held against to a file; None where there are none, or none any more."""
    digest = version.lineage.validation_digest
    if digest is None:
        return None
    try:
        return fetch_data(digest, file, stores)
    except errors.NotFound:
        return None  # its text was purged


def check_one_base(versions: Sequence[values.VersionFiles]) -> None:
    """Refuse adapters of different bases.

    Raises:
        Incompatible: naming each that differs from the first.

    """
    first = versions[0]
    problems = [
        errors.Problem(where=version.reference, what=f"is for {version.base.name}, not for {first.base.name}")
        for version in versions[1:]
        if version.base.fingerprint != first.base.fingerprint
    ]
    if problems:
        raise errors.Incompatible(problems, subject="adapters of different bases")
