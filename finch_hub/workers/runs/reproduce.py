"""Do again what made a version, with the threads, number format and micro-batches of then, and compare the bytes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finch_hub.specs.jobs import ComposeSpec, Job, Parent, QuantizeSpec, ReproduceSpec, TrainSpec, job_spec
from finch_hub.specs.reports import Change, ReproductionReport
from finch_hub.workers import runs

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Prepare the job that made the version, with what it depended on then."""
    from finch_hub.workers.runs import common

    spec = cast(ReproduceSpec, job.spec)
    version, folder = common.fetch_version(spec.adapter, stores)
    again = job.evolve(kind=version.kind, spec=_spec_of(version))
    order = runs.run_of(version.kind).prepare(again, stores, workdir)
    order["base"]["fingerprint"] = version.base.fingerprint
    if version.kind == "train":
        order["batch_tokens"] = version.lineage.environment.get("batch_tokens")
    return {
        "kind": version.kind,
        "order": order,
        "reference": version.reference,
        "original": str(folder),
        "identity": version.identity,
        "threads": version.lineage.environment.get("threads"),
    }


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Do it again, and compare what comes out behind the gate, where the original stands."""
    channel.phase("importing")
    from finch_hub.artifacts import gate
    from finch_hub.engine.adapters import comparison
    from finch_hub.engine.training import loop

    began = time.monotonic()
    with loop.computing(order["threads"]):
        outcome = runs.run_of(order["kind"]).execute(order["order"], channel)
    channel.phase("comparing")
    admitted = gate.admit_adapter(Path(outcome["adapter"]), channel.workdir / "admitted")
    config, tensors, compared = comparison.compare(Path(order["original"]), admitted.folder)
    report = ReproductionReport(
        adapter=order["reference"],
        kind=order["kind"],
        identical=order["identity"] == admitted.identity,
        identity=order["identity"],
        reproduced_identity=admitted.identity,
        config=config,
        tensors=tensors,
        compared=compared,
        seconds=time.monotonic() - began,
    )
    environment = outcome["report"]["environment"] if order["kind"] == "train" else outcome["environment"]
    return {"report": report.model_dump(mode="json"), "environment": environment}


def store(job: Job, outcome: dict[str, Any], stores: Stores) -> dict[str, Any]:
    """Say what is not as it was then; the adapter itself is not kept."""
    from finch_hub.storage import publishing
    from finch_hub.workers.runs import common

    version, _ = common.fetch_version(outcome["report"]["adapter"], stores)
    lineage = version.lineage
    versions = publishing.versions(stores.catalog, outcome["environment"])
    causes = Change.between({**lineage.versions, **lineage.environment}, {**versions, **outcome["environment"]})
    return {"causes": [change.model_dump(mode="json") for change in causes]}


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Make nothing: the report is the result."""
    return {"reproduction": outcome["report"] | stored}


def _spec_of(version: AdapterVersion) -> TrainSpec | ComposeSpec | QuantizeSpec:
    """Return what was asked for, with everything fixed that the machine of then decided."""
    environment = version.lineage.environment
    if version.kind == "quantize":
        fields = {name: version.spec[name] for name in QuantizeSpec.model_fields if name in version.spec}
        return QuantizeSpec.of(fields)
    spec = job_spec.validate_python(version.spec, context={"stored": True})
    if isinstance(spec, ComposeSpec):
        # What a bare name meant then.
        parents = tuple(Parent(adapter=parent.reference, weight=parent.weight) for parent in version.lineage.parents)
        return spec.evolve(parents=parents)
    spec = cast(TrainSpec, spec)
    changes: dict[str, Any] = {"threads": environment.get("threads")}
    if spec.training.dtype == "auto" and environment.get("dtype") in ("float32", "bfloat16"):
        changes["dtype"] = environment["dtype"]
    return spec.evolve(training=spec.training.evolve(**changes))
