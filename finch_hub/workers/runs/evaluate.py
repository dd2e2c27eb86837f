"""Measure a base and adapters on a data set with an evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finch_hub.engine.data import reading
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import EvaluateSpec, Job
from finch_hub.specs.reports import EvaluationReport
from finch_hub.workers.runs import model_cache

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel

BASE = "base"
"""Name of the bare base among the results."""


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Fetch adapters and examples, and check evaluator and parameters."""
    from finch_hub.workers.runs import common

    spec = cast(EvaluateSpec, job.spec)
    stores.catalog.evaluators[spec.evaluator].parse(spec.parameters)
    adapters = []
    for reference in spec.adapters:
        version, folder = common.fetch_version(reference, stores)
        adapters.append(
            {
                "name": version.reference,
                "folder": str(folder),
                "fingerprint": version.base.fingerprint,
                "system": version.spec.get("system") if spec.system is None else spec.system,
            }
        )
    return {
        "base": common.base_order(spec.base, stores),
        "adapters": adapters,
        "dataset": common.fetch_data(spec.dataset, workdir / "dataset.jsonl", stores),
        "digest": spec.dataset,
        "evaluator": spec.evaluator,
        "parameters": spec.parameters,
        "system": spec.system,
    }


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Evaluate the base, then each adapter."""
    channel.phase("importing")
    from finch_hub.engine.data.tokenizing import with_system
    from finch_hub.engine.inference.generator import GeneratorModel

    evaluator = channel.catalog.evaluators[order["evaluator"]]
    parameters, kernel = evaluator.parse(order["parameters"]), evaluator.load()
    base = channel.bases.load(order["base"], say=channel.phase)
    for adapter in order["adapters"]:
        model_cache.check_fingerprint(base.fingerprint, adapter["fingerprint"], adapter["name"], base.name)
    rows = reading.load_examples(Path(order["dataset"]).read_bytes())
    model = GeneratorModel(base)
    results: dict[str, dict[str, Any]] = {}
    for subject in ({"name": BASE, "folder": None, "system": order["system"]}, *order["adapters"]):
        name, folder = subject["name"], subject["folder"]
        channel.phase(f"measuring {name}")
        if folder is not None:
            model.load_lora(folder, name)
        examples = [row.evolve(messages=with_system(row, subject["system"])) if row.messages else row for row in rows]
        results[name] = dict(kernel(model, examples, parameters))
        data = {"name": name, **results[name]}
        channel.report(NewEvent(type="metrics", message=f"{name}: {_told(results[name])}", data=data))
        if folder is not None:
            model.unload(name)  # with the last adapter the base is as it was, for the next job
    report = EvaluationReport(evaluator=order["evaluator"], dataset=order["digest"], results=results)
    return {"report": report.model_dump(mode="json"), "base": model_cache.describe_base(base, order["base"])}


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Register the figures of the base and of each adapter."""
    from finch_hub.registry import evaluations
    from finch_hub.workers.runs import common

    base = common.register_base(session, outcome["base"])
    report = EvaluationReport.of(outcome["report"])
    for name, metrics in report.results.items():
        evaluations.add(
            session,
            base_id=base.id,
            dataset=report.dataset,
            evaluator=report.evaluator,
            metrics=metrics,
            adapter=None if name == BASE else name,
            job_id=job.id,
        )
    return {"evaluation": outcome["report"]}


def _told(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items())
