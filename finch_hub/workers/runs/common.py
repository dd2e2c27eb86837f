"""What several kinds of jobs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub.registry import adapters, bases, jobs, values
from finch_hub.specs.jobs import BaseModelSource

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from finch_hub.engine.bases import Base
    from finch_hub.workers.stores import Stores


def base_order(source: BaseModelSource, stores: Stores) -> dict[str, Any]:
    """Return what a child needs to load a base: `source`, `key`, `cache`, and `fetch`, a plugin's target or None.

    Raises:
        NotFound: no base source knows how to fetch it.

    """
    catalogue = stores.catalogue
    descriptor = catalogue.base_source_of(source.source)
    built_in = catalogue.base_sources.plugin_of(descriptor.name) == "finch-hub"
    return {
        "source": source.model_dump(mode="json"),
        "key": jobs.key_of_base(source),
        "cache": str(stores.bases),
        "fetch": None if built_in else descriptor.target,
    }


def base_order_of(base: values.Base, stores: Stores) -> dict[str, Any]:
    """Return the same for the base of a registered version, with the fingerprint that it must have."""
    source = BaseModelSource(source=base.source, revision=base.revision)
    return base_order(source, stores) | {"fingerprint": base.fingerprint}


def describe_base(base: Base, order: dict[str, Any]) -> dict[str, Any]:
    """Return what the registry keeps of a base that a child has loaded."""
    return {
        "name": base.name,
        "source": order["source"]["source"],
        "revision": order["source"]["revision"],
        "fingerprint": base.fingerprint,
        "architecture": str((base.model.config.architectures or [type(base.model).__name__])[0]),
        "parameters": base.parameters,
        "path": str(base.folder),
    }


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
