"""How an adapter folder becomes a version: through the gate, with card and `finch.json`, into store and registry."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub.artifacts import gate
from finch_hub.registry import adapters, values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finch_hub.plugins.catalog import Catalog
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

_LIBRARIES = ("finch-hub", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of an adapter that is to become a version.

    Attributes:
        base: what :func:`runs.common.describe_base` returned.
        metrics: figures and short texts, shown beside the version.
        state: what it is registered as, unless the gate puts it into quarantine.

    """

    name: str
    kind: values.VersionKind
    base: dict[str, Any]
    lineage: values.Lineage
    spec: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    state: values.VersionState = "ready"
    job_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """An adapter that is in the store and not yet in the registry."""

    description: Description
    digest: str
    identity: str
    state: values.VersionState
    metrics: dict[str, Any]
    card: str


def publish(folder: Path, stores: Stores, description: Description) -> Published:
    """Put an adapter folder through the gate and into the store, with its card and `finch.json`.

    Raises:
        RefusedArtifact: the gate does not let it in.
        Unavailable: the store is full or away.

    """
    with tempfile.TemporaryDirectory(prefix="publish-", dir=_scratch(stores)) as scratch:
        clean = Path(scratch) / "adapter"
        admitted = gate.admit_adapter(folder, clean)
        state = "quarantined" if admitted.quarantine else description.state
        metrics = {**description.metrics, "rank": admitted.rank, "bytes": admitted.bytes}
        if admitted.quarantine:
            metrics["quarantine"] = list(admitted.quarantine)
        card = model_card(description, metrics)
        (clean / "README.md").write_text(card)
        record = _finch_json(description, admitted.identity, metrics)
        (clean / "finch.json").write_text(json.dumps(record, indent=2) + "\n")
        digest = stores.artifacts.put_tree(clean)
    return Published(
        description=description, digest=digest, identity=admitted.identity, state=state, metrics=metrics, card=card
    )


def register(session: Session, published: Published, base: values.Base) -> values.AdapterVersion:
    """Make the version of a published adapter."""
    description = published.description
    return adapters.create_version(
        session,
        name=description.name,
        digest=published.digest,
        identity=published.identity,
        base_id=base.id,
        kind=description.kind,
        lineage=description.lineage,
        state=published.state,
        job_id=description.job_id,
        spec=description.spec,
        metrics=published.metrics,
        card=published.card,
    )


def versions(catalog: Catalog, environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the libraries and plugins that an adapter's bytes may depend on.

    Those that the child reported in `environment` count; this process may see the same installation only.
    """
    found = {plugin.name: plugin.version for plugin in catalog.plugins if plugin.version}
    for name in _LIBRARIES:
        try:
            found[name] = str(environment.get(name) or importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_card(description: Description, metrics: Mapping[str, Any]) -> str:
    """Write the model card: the metadata that the Hugging Face hub reads, then the evidence for people."""
    base = description.base["source"]
    front: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": base,
        "base_model_relation": "adapter",
        "tags": ["lora", "transformers", f"base_model:adapter:{base}", "finch-hub"],
    }
    if "loss_after" in metrics:
        value = round(metrics["loss_after"], 4)
        measured = [{"type": "loss", "name": "held-out loss (nats per token)", "value": value}]
        task = {"type": "text-generation"}
        dataset = {"name": "held-out examples", "type": (description.lineage.validation_digest or "")[:16]}
        front["model-index"] = [
            {"name": description.name, "results": [{"task": task, "dataset": dataset, "metrics": measured}]}
        ]
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# {description.name}", "", f"A LoRA adapter for `{base}`, made by Finch Hub ({description.kind}).", ""]
    shown = {k: v for k, v in metrics.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}
    if shown:
        lines += ["| measured | value |", "|---|---|"]
        lines += [f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in shown.items()]
        lines.append("")
    if description.lineage.parents:
        lines += ["## Made from", ""]
        lines += [f"- `{parent.reference}`, weight {parent.weight:g}" for parent in description.lineage.parents]
        lines.append("")
    lines += ["Lineage, hashes and versions are in `finch.json`.", ""]
    return "\n".join(lines)


def _finch_json(description: Description, identity: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "name": description.name,
        "kind": description.kind,
        "identity": identity,
        "job": description.job_id,
        "base": {key: description.base[key] for key in ("source", "revision", "fingerprint", "architecture")},
        "spec": description.spec,
        "lineage": description.lineage.model_dump(mode="json"),
        "metrics": dict(metrics),
    }


def _scratch(stores: Stores) -> Path:
    folder = stores.settings.cache / "publish"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
