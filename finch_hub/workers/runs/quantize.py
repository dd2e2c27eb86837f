"""Store an adapter at fewer bits as its next version, with what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finch_hub.engine.data import reading
from finch_hub.specs.jobs import Job, QuantizeSpec
from finch_hub.specs.reports import QuantizationReport

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.specs.reports import TokenMetrics
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel


_MAX_LENGTH = 2048  # tokens of an example that is measured, where the base's context is longer


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Fetch the adapter and what it was held against."""
    from finch_hub.workers.runs import common

    spec = cast(QuantizeSpec, job.spec)
    version, folder = common.fetch_version(spec.adapter, stores)
    return {
        "adapter": str(folder),
        "reference": version.reference,
        "scheme": spec.scheme,
        "group": spec.group,
        "tolerance": spec.tolerance,
        "validation": common.fetch_validation(version, workdir / "validation.jsonl", stores),
        "system": version.spec.get("system"),
        "base": common.base_order_of(version.base, stores),
    }


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Quantise; the result is left in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.export import quantization
    from finch_hub.engine.training import environment

    base = objective = None
    if order["validation"] is not None:
        from finch_hub.engine.adapters.adapter import LoRAAdapter
        from finch_hub.engine.data.tokenizing import tokenize_all
        from finch_hub.engine.decoder import evaluation

        base = channel.bases.load(order["base"], say=channel.phase)
        examples = reading.load_examples(Path(order["validation"]).read_bytes())
        tokenized = tokenize_all(
            examples, base.tokenizer, system=order["system"], max_length=min(base.context, _MAX_LENGTH)
        )

        def measure(folder: Path) -> TokenMetrics:
            channel.stop_here()
            adapter = LoRAAdapter.load(folder, base)
            try:
                return evaluation.measure(base, tokenized)
            finally:
                adapter.detach()

        objective = measure
    channel.phase("quantising")
    report = quantization.quantize(
        Path(order["adapter"]),
        channel.workdir / "adapter",
        scheme=order["scheme"],
        group=order["group"],
        objective=objective,
        tolerance=order["tolerance"],
    )
    return {
        "adapter": str(channel.workdir / "adapter"),
        "parent": order["reference"],
        "report": report.model_dump(mode="json"),
        "environment": environment.describe(base),
    }


def store(job: Job, outcome: dict[str, Any], stores: Stores) -> dict[str, Any]:
    """Put the quantised adapter through the gate and into the store."""
    from finch_hub.registry import values
    from finch_hub.storage import publishing
    from finch_hub.workers.runs import common

    spec = cast(QuantizeSpec, job.spec)
    report = QuantizationReport.of(outcome["report"])
    parent, _ = common.fetch_version(outcome["parent"], stores)
    lineage = parent.lineage.evolve(
        parents=(values.ParentVersion(reference=parent.reference),),
        versions=publishing.versions(stores.catalog, outcome["environment"]),
        environment=outcome["environment"],
    )
    metrics: dict[str, Any] = {
        "scheme": report.scheme,
        "group": report.group,
        "relative_error": report.relative_error,
        "bytes_before": report.bytes_before,
    }
    if report.before is not None and report.after is not None:
        metrics |= {"loss_unquantised": report.before.loss, "loss_after": report.after.loss}
    description = publishing.Description(
        name=parent.name,
        kind="quantize",
        base=parent.base.model_dump(mode="json"),
        job_id=job.id,
        spec=spec.model_dump(mode="json") | {"system": parent.spec.get("system")},
        lineage=lineage,
        metrics=metrics,
    )
    return {"published": publishing.publish(Path(outcome["adapter"]), stores, description), "base": parent.base}


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Make the next version of the adapter."""
    from finch_hub.storage import publishing

    version = publishing.register(session, stored["published"], stored["base"])
    return {"adapter": version.reference, "metrics": version.metrics, "report": outcome["report"]}
