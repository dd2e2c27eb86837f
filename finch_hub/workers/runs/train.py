"""Train an adapter: examples from the store, checkpoints in the attempt's folder, a version in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub.engine.data import reading
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import Job, JobResult, TrainSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import JsonObject, Value
from finch_hub.workers.runs import inputs, model_cache
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.kind import AdapterOutcome, JobKind, Recipe, Record
from finch_hub.workers.runs.model_cache import BaseOrder

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base
    from finch_hub.engine.training.loop import Trained
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores


_METRICS = ("steps", "epochs", "tokens", "seconds", "train_loss", "stopped_early", "trainable_parameters")


class TrainOrder(Value):
    """What the child needs to train.

    Attributes:
        train: file of examples.
        validation: file of held-out examples; None holds some of `train` out.
        batch_tokens: sizes of micro-batches by step, to repeat an earlier training.
    """

    base: BaseOrder
    system: str | None
    lora: LoRAConfig
    training: TrainingConfig
    train: Path
    validation: Path | None
    batch_tokens: tuple[tuple[int, int | None], ...] | None = None


class TrainOutcome(AdapterOutcome[TrainingReport]):
    """What the child trained. `validation` is the file of the examples that were held out, None if there are none."""

    validation: Path | None
    validation_examples: int
    base: BaseDescription


def prepare(spec: TrainSpec, job: Job, stores: Stores, workdir: Path) -> TrainOrder:
    """Fetch the examples."""
    validation = workdir / "validation.jsonl"
    return TrainOrder(
        base=model_cache.order_base(spec.base, stores),
        system=spec.system,
        lora=spec.lora,
        training=spec.training,
        train=inputs.fetch_examples(spec.train, workdir / "train.jsonl", stores),
        validation=inputs.fetch_examples(spec.validation, validation, stores) if spec.validation else None,
    )


def execute(order: TrainOrder, channel: Channel) -> TrainOutcome:
    """Train, and leave the best adapter by held-out loss in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.training import loop

    base = channel.bases.load(order.base, say=channel.phase, dtype=order.training.dtype)
    examples, validation = read_data(order, channel)
    trained = loop.train(
        base,
        order.lora,
        order.training,
        examples,
        validation,
        system=order.system,
        workdir=channel.checkpoints,
        report=channel.report,
        should_stop=channel.should_stop,
        batch_tokens=order.batch_tokens,
    )
    return save(trained, order, channel, base, validation)


def read_data(order: TrainOrder, channel: Channel) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the examples to train on and those held out."""
    from finch_hub.engine.data import splitting

    examples = inputs.read_examples(order.train)
    if order.validation is not None:
        return examples, inputs.read_examples(order.validation)
    # Split here, not in the loop: compositions of this adapter are measured on the held-out part, so it is stored.
    examples, validation = splitting.split_examples(examples, order.training.validation, order.training.seed)
    (channel.workdir / "validation.jsonl").write_bytes(reading.dump_examples(validation))
    return examples, validation


def save(
    trained: Trained, order: TrainOrder, channel: Channel, base: Base, validation: Sequence[Example]
) -> TrainOutcome:
    """Write the adapter to the attempt's folder, detach it from its base, and return the outcome."""
    try:
        trained.adapter.save(channel.workdir / "adapter")
    finally:
        trained.adapter.detach()
    return TrainOutcome(
        adapter=channel.workdir / "adapter",
        environment=trained.report.environment,
        validation=channel.workdir / "validation.jsonl" if validation else None,
        validation_examples=len(validation),
        report=trained.report,
        base=model_cache.describe_base(base, order.base),
    )


def finish(spec: TrainSpec, job: Job, outcome: TrainOutcome, stores: Stores) -> Record:
    """Store the adapter and the held-out examples, and register the version with both."""
    from finch_hub.registry import bases, datasets, values
    from finch_hub.storage import publishing

    validation, held_out = spec.validation, b""
    if validation is None and outcome.validation is not None:
        held_out = outcome.validation.read_bytes()
        validation = stores.artifacts.put(held_out)
    description = publishing.Description(
        name=spec.adapter,
        kind="train",
        base=outcome.base,
        job_id=job.id,
        spec=spec.model_dump(mode="json"),
        lineage=values.Lineage(train_digest=spec.train, validation_digest=validation, seed=spec.training.seed),
        metrics=_metrics(outcome.report),
    )
    register = publishing.publish(outcome.adapter, stores, description, outcome.environment)

    def record(session: Session) -> JobResult:
        if held_out:
            datasets.add(
                session,
                digest=str(validation),
                format="messages",
                examples=outcome.validation_examples,
                size=len(held_out),
            )
        return outcome.result_of(register(session, bases.add(session, outcome.base)))

    return record


def _metrics(report: TrainingReport) -> JsonObject:
    metrics = {name: getattr(report, name) for name in _METRICS}
    for name, quality in (("before", report.before), ("after", report.after)):
        if quality is not None:
            metrics[f"loss_{name}"] = quality.loss
            metrics[f"accuracy_{name}"] = quality.accuracy
            metrics[f"perplexity_{name}"] = quality.perplexity if quality.loss < 700 else None
    return metrics


def _repeated_spec(version: AdapterVersion) -> TrainSpec:
    environment = version.lineage.environment
    spec = KIND.spec_of(version.spec)
    changes: dict[str, Any] = {"threads": environment.get("threads")}
    if spec.training.dtype == "auto" and environment.get("dtype") in ("float32", "bfloat16"):
        changes["dtype"] = environment["dtype"]
    return spec.evolve(training=spec.training.evolve(**changes))


def _pinned(order: TrainOrder, version: AdapterVersion) -> TrainOrder:
    base = order.base.evolve(fingerprint=version.base.fingerprint)
    return order.evolve(base=base, batch_tokens=version.lineage.environment.get("batch_tokens"))


KIND = JobKind(
    spec=TrainSpec,
    order=TrainOrder,
    outcome=TrainOutcome,
    report=TrainingReport,
    about=lambda spec: spec.adapter,
    prepare=prepare,
    execute=execute,
    finish=finish,
    recipe=Recipe(spec=_repeated_spec, pin=_pinned),
)
