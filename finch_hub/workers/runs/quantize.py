"""Store an adapter at fewer bits as its next version, with its loss of quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub.specs.evidence import Evidence
from finch_hub.specs.jobs import Job, QuantizeSpec
from finch_hub.specs.reports import QuantizationReport
from finch_hub.specs.value import Value
from finch_hub.workers.runs import inputs, model_cache
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import AdapterOutcome, JobKind, Record
from finch_hub.workers.runs.model_cache import BaseOrder

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.reports import TokenMetrics
    from finch_hub.storage.stores import Stores


class QuantizeOrder(Value):
    """What the child needs to quantize a version. `validation` is the file of the version's held-out examples."""

    spec: QuantizeSpec
    adapter: Path
    reference: str
    validation: Path | None
    system: str | None
    base: BaseOrder


class QuantizeOutcome(AdapterOutcome[QuantizationReport]):
    """What the child quantized. `parent` is the version's reference."""

    parent: str


def prepare(spec: QuantizeSpec, job: Job, stores: Stores, workdir: Path) -> QuantizeOrder:
    """Fetch the version and its held-out examples."""
    version, folder = inputs.fetch_version(spec.adapter, stores)
    return QuantizeOrder(
        spec=spec,
        adapter=folder,
        reference=version.reference,
        validation=inputs.fetch_validation(version, workdir / "validation.jsonl", stores, job=job),
        system=version.spec.get("system"),
        base=model_cache.order_base_of(version.base, stores),
    )


def execute(order: QuantizeOrder, channel: Channel) -> QuantizeOutcome:
    """Quantize, and leave the result in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.export import quantization
    from finch_hub.engine.training import environment

    base = objective = None
    if order.validation is not None:
        from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
        from finch_hub.engine.bases.base import default_max_length
        from finch_hub.engine.data.tokenizing import tokenize_data
        from finch_hub.engine.decoder import evaluation

        base = channel.bases.load(order.base, say=channel.phase)
        examples = inputs.read_examples(order.validation)
        length = default_max_length(base.context)
        data = tokenize_data(
            examples, base.tokenizer, system=order.system, max_length=length, num_embeddings=base.num_embeddings
        )
        if data.lost:
            channel.phase(f"measuring without {data.lost:,} of {len(examples):,} examples, which cannot be used")

        def measure(folder: Path) -> TokenMetrics:
            channel.stop_here()
            adapter = AttachableAdapter.load(folder, base)
            try:
                return evaluation.measure(base, data.examples)
            finally:
                adapter.detach()

        objective = measure
    channel.phase("quantizing")
    report = quantization.quantize(
        order.adapter,
        channel.workdir / "adapter",
        scheme=order.spec.scheme,
        group=order.spec.group,
        objective=objective,
        tolerance=order.spec.tolerance,
    )
    return QuantizeOutcome(
        adapter=channel.workdir / "adapter",
        environment=environment.describe(base),
        parent=order.reference,
        report=report,
    )


def finish(spec: QuantizeSpec, job: Job, outcome: QuantizeOutcome, stores: Stores) -> Record:
    """Store the quantized adapter, and register it as the adapter's next version."""
    from finch_hub.registry import adapter_versions, values
    from finch_hub.storage import publishing

    report = outcome.report
    with stores.database.read() as session:
        parent = adapter_versions.resolve(session, outcome.parent)
    metrics = {name: getattr(report, name) for name in ("scheme", "group", "relative_error", "bytes_before")}
    if report.before is not None and report.after is not None:
        metrics |= {"loss_unquantized": report.before.loss, "loss_after": report.after.loss}
    description = publishing.Description(
        name=parent.name,
        kind="quantize",
        base=parent.base,
        job_id=job.id,
        owner=job.owner,
        spec=spec.model_dump(mode="json") | parent.prompting,
        lineage=parent.lineage.evolve(parents=(values.ParentVersion(reference=parent.reference),)),
        metrics=metrics,
        evidence=Evidence.of_quantization(report),
    )
    create_version = publishing.publish(outcome.adapter, stores, description, outcome.environment)
    return lambda session: outcome.result_of(create_version(session, parent.base))


def _repeat(version: AdapterVersion) -> QuantizeSpec:
    # What prompts must have stands beside the specification's own fields.
    return KIND.spec_of({name: version.spec[name] for name in QuantizeSpec.model_fields if name in version.spec})


KIND = JobKind(
    spec=QuantizeSpec,
    order=QuantizeOrder,
    outcome=QuantizeOutcome,
    report=QuantizationReport,
    about=lambda spec: spec.adapter,
    prepare=prepare,
    execute=execute,
    finish=finish,
    repeat=_repeat,
)
