"""Publishing: an adapter folder passes the gate, gets card and `finch.json`, and becomes a version."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from finch_hub.artifacts import gate
from finch_hub.plugins.catalog import Catalog
from finch_hub.registry import adapter_versions, values
from finch_hub.registry.database import Session
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.value import JsonObject
from finch_hub.storage import model_card
from finch_hub.storage.stores import Stores

_LIBRARIES = ("finch-hub", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, kw_only=True)
class Description:
    """An adapter that is to become a version. The gate may change its state to quarantined."""

    name: str
    kind: values.VersionKind
    base: BaseDescription
    lineage: values.Lineage = values.Lineage()  # noqa: RUF009 - frozen
    spec: JsonObject = field(default_factory=dict)
    metrics: JsonObject = field(default_factory=dict)
    state: values.VersionState = "ready"
    job_id: str | None = None


CreateVersion = Callable[[Session, values.Base], values.AdapterVersion]
"""Creates the version of a published adapter."""


def publish(folder: Path, stores: Stores, description: Description, environment: JsonObject) -> CreateVersion:
    """Put an adapter folder through the gate and into the store, with its card and `finch.json`.

    Args:
        environment: influences on the bytes, for the lineage.

    Raises:
        RefusedArtifact: the gate found a problem.
        Unavailable: the store is full or does not answer.
    """
    versions = list_library_versions(stores.catalog, environment)
    lineage = description.lineage.evolve(versions=versions, environment=environment)
    parent = stores.settings.cache / "publish"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=parent) as scratch:
        clean = Path(scratch) / "adapter"
        admitted = gate.admit_adapter(folder, clean)
        state = "quarantined" if admitted.quarantine else description.state
        metrics = {**description.metrics, "rank": admitted.rank, "bytes": admitted.bytes}
        if admitted.quarantine:
            metrics["quarantine"] = list(admitted.quarantine)
        card = model_card.write(description.name, description.kind, description.base.source, lineage, metrics)
        (clean / "README.md").write_text(card, encoding="utf-8")
        record = {
            "format": 1,
            "name": description.name,
            "kind": description.kind,
            "identity": admitted.identity,
            "job": description.job_id,
            "base": description.base.model_dump(include={"source", "revision", "fingerprint", "architecture"}),
            "spec": description.spec,
            "lineage": lineage.model_dump(mode="json"),
            "metrics": metrics,
        }
        (clean / "finch.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        digest = stores.artifacts.put_tree(clean)
    return lambda session, base: adapter_versions.create(
        session,
        name=description.name,
        digest=digest,
        identity=admitted.identity,
        base_id=base.id,
        kind=description.kind,
        lineage=lineage,
        state=state,
        job_id=description.job_id,
        spec=description.spec,
        metrics=metrics,
        card=card,
    )


def list_library_versions(catalog: Catalog, environment: JsonObject) -> dict[str, str]:
    """Return the versions of libraries and plugins that an adapter's bytes may depend on, as `environment` has them.

    The rest is read from this process's installation.
    """
    versions = {plugin.name: plugin.version for plugin in catalog.plugins if plugin.version}
    for name in _LIBRARIES:
        try:
            versions[name] = str(environment.get(name) or importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
