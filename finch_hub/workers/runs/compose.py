"""Compose adapters into one: diagnosed before, measured on the parents' held-out examples, registered with both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finch_hub.engine.data import reading
from finch_hub.plugins import trials
from finch_hub.specs.jobs import ComposeSpec, Job
from finch_hub.specs.reports import CompositionReport

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Fetch the parents and what they were held against."""
    from finch_hub.registry import values
    from finch_hub.workers.runs import common

    spec = cast(ComposeSpec, job.spec)
    trials.check_strategy(spec, stores.catalog)
    trials.check_resolver(spec, stores.catalog)
    parents = []
    bases: list[values.Base] = []
    for number, parent in enumerate(spec.parents):
        version, folder = common.fetch_version(parent.adapter, stores)
        bases.append(version.base)
        parents.append(
            {
                "name": version.reference,
                "folder": str(folder),
                "weight": parent.weight,
                "validation": common.fetch_validation(version, workdir / f"validation-{number}.jsonl", stores),
                "system": version.spec.get("system"),
                "base_fingerprint": version.base.fingerprint,
            }
        )
    return {
        "spec": spec.model_dump(mode="json"),
        "parents": parents,
        "base": common.base_order_of(bases[0], stores),
    }


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Compose; the result is left in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.composition.compose import ParentInput, compose
    from finch_hub.engine.training import environment

    spec = ComposeSpec.of(order["spec"])
    parents = [
        ParentInput(**{**parent, "folder": Path(parent["folder"]), "validation": _examples(parent["validation"])})
        for parent in order["parents"]
    ]
    base = None
    if any(parent.validation for parent in parents):
        base = channel.bases.load(order["base"], say=channel.phase)
    composed = compose(
        parents,
        spec,
        trials.trials(spec, channel.catalog),
        base=base,
        report=channel.report_or_stop,
        between=channel.stop_here,
    )
    composed.save(channel.workdir / "adapter")
    return {
        "adapter": str(channel.workdir / "adapter"),
        "parents": [{"reference": parent.name, "weight": parent.weight} for parent in parents],
        "report": composed.report.model_dump(mode="json"),
        "environment": environment.describe(base),
    }


def store(job: Job, outcome: dict[str, Any], stores: Stores) -> dict[str, Any]:
    """Put the composition through the gate and into the store."""
    from finch_hub.registry import values
    from finch_hub.storage import publishing
    from finch_hub.workers.runs import common

    spec = cast(ComposeSpec, job.spec)
    report = CompositionReport.of(outcome["report"])
    with stores.database.read() as session:
        base = common.base_of(outcome["parents"][0]["reference"], session)
    lineage = values.Lineage(
        parents=tuple(values.ParentVersion(**parent) for parent in outcome["parents"]),
        seed=spec.seed,
        versions=publishing.versions(stores.catalog, outcome["environment"]),
        environment=outcome["environment"],
    )
    description = publishing.Description(
        name=spec.adapter,
        kind="compose",
        base=base.model_dump(mode="json"),
        job_id=job.id,
        spec=spec.model_dump(mode="json"),
        lineage=lineage,
        metrics=_metrics(report),
        state="below_retention" if report.below_retention else "ready",
    )
    return {"published": publishing.publish(Path(outcome["adapter"]), stores, description), "base": base}


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Make the version; one that keeps too little of a parent is registered as `below_retention`."""
    from finch_hub.storage import publishing

    version = publishing.register(session, stored["published"], stored["base"])
    return {
        "adapter": version.reference,
        "state": version.state,
        "metrics": version.metrics,
        "report": outcome["report"],
    }


def _examples(file: str | None) -> tuple[Any, ...]:
    return reading.load_examples(Path(file).read_bytes()) if file else ()


def _metrics(report: CompositionReport) -> dict[str, Any]:
    return {
        "strategy": report.strategy,
        "resolver": report.resolver,
        "scale": report.scale,
        "mean_retention": report.mean_retention,
        "worst_retention": report.worst_retention,
        "evaluations": report.evaluations,
        "seconds": report.seconds,
    }
