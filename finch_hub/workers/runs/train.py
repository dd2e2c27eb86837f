"""Train an adapter: examples from the store, checkpoints in the attempt's folder, a version in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finch_hub.engine.data import reading
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import Job, TrainSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TokenMetrics, TrainingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.workers.runs import model_cache

if TYPE_CHECKING:
    from finch_hub.engine.bases.loading import Base
    from finch_hub.engine.training.loop import Trained
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Fetch the examples and find who fetches the base."""
    from finch_hub.workers.runs import common

    spec = cast(TrainSpec, job.spec)
    order: dict[str, Any] = {
        "base": common.base_order(spec.base, stores),
        "system": spec.system,
        "lora": spec.lora.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
        "train": common.fetch_data(spec.train, workdir / "train.jsonl", stores),
        "validation": None,
    }
    if spec.validation is not None:
        order["validation"] = common.fetch_data(spec.validation, workdir / "validation.jsonl", stores)
    return order


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Train; the best adapter by held-out loss is left in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.training import loop

    training = TrainingConfig.of(order["training"])
    base = channel.bases.load(order["base"], say=channel.phase, dtype=training.dtype)
    examples, validation = read_data(order, training, channel)
    trained = loop.train(
        base,
        LoRAConfig.of(order["lora"]),
        training,
        examples,
        validation,
        system=order["system"],
        workdir=channel.checkpoints,
        report=channel.report,
        should_stop=channel.should_stop,
        batch_tokens=order.get("batch_tokens"),
    )
    return save(trained, order, channel, base, validation)


def read_data(
    order: dict[str, Any], training: TrainingConfig, channel: Channel
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the examples to learn and those held out."""
    from finch_hub.engine.data import splitting

    examples = reading.load_examples(Path(order["train"]).read_bytes())
    if order["validation"] is not None:
        return examples, reading.load_examples(Path(order["validation"]).read_bytes())
    # Split here, not in the loop: the held-out part is kept, for compositions of this adapter to be measured on.
    examples, validation = splitting.split(examples, training.validation, training.seed)
    (channel.workdir / "validation.jsonl").write_bytes(reading.dump_examples(validation))
    return examples, validation


def save(
    trained: Trained, order: dict[str, Any], channel: Channel, base: Base, validation: Sequence[Example]
) -> dict[str, Any]:
    """Leave the adapter in the attempt's folder, take it off its base, and return the outcome."""
    try:
        trained.adapter.save(channel.workdir / "adapter")
    finally:
        trained.adapter.detach()
    return {
        "adapter": str(channel.workdir / "adapter"),
        "validation": str(channel.workdir / "validation.jsonl") if validation else None,
        "validation_examples": len(validation),
        "report": trained.report.model_dump(mode="json"),
        "base": model_cache.describe_base(base, order["base"]),
    }


def store(job: Job, outcome: dict[str, Any], stores: Stores) -> dict[str, Any]:
    """Put the adapter through the gate, and it and the held-out examples into the store."""
    from finch_hub.registry import values
    from finch_hub.storage import publishing

    spec = cast(TrainSpec, job.spec)
    report = TrainingReport.of(outcome["report"])
    validation: dict[str, Any] = {"digest": spec.validation}
    if spec.validation is None and outcome["validation"] is not None:
        data = Path(outcome["validation"]).read_bytes()
        validation = {"digest": stores.artifacts.put(data), "bytes": len(data)}
    lineage = values.Lineage(
        train_digest=spec.train,
        validation_digest=validation["digest"],
        seed=spec.training.seed,
        versions=publishing.versions(stores.catalog, report.environment),
        environment=report.environment,
    )
    published = publishing.publish(
        Path(outcome["adapter"]),
        stores,
        publishing.Description(
            name=spec.adapter,
            kind="train",
            base=outcome["base"],
            job_id=job.id,
            spec=spec.model_dump(mode="json"),
            lineage=lineage,
            metrics=_metrics(report),
        ),
    )
    return {"published": published, "validation": validation}


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Make the version, with its lineage and metrics."""
    from finch_hub.registry import datasets
    from finch_hub.storage import publishing
    from finch_hub.workers.runs import common

    held_out = stored["validation"]
    if "bytes" in held_out:
        datasets.add(
            session,
            digest=held_out["digest"],
            format="messages",
            examples=outcome["validation_examples"],
            size=held_out["bytes"],
        )
    base = common.register_base(session, outcome["base"])
    version = publishing.register(session, stored["published"], base)
    return {"adapter": version.reference, "metrics": version.metrics, "report": outcome["report"]}


def _metrics(report: TrainingReport) -> dict[str, Any]:
    found: dict[str, Any] = {
        "steps": report.steps,
        "epochs": report.epochs,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "train_loss": report.train_loss,
        "stopped_early": report.stopped_early,
        "trainable_parameters": report.trainable_parameters,
    }
    for name, metrics in (("before", report.before), ("after", report.after)):
        if metrics is not None:
            found |= _named(name, metrics)
    return found


def _named(name: str, metrics: TokenMetrics) -> dict[str, Any]:
    return {
        f"loss_{name}": metrics.loss,
        f"accuracy_{name}": metrics.accuracy,
        f"perplexity_{name}": metrics.perplexity if metrics.loss < 700 else None,
    }
