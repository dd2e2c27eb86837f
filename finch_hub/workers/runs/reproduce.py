"""Repeat the job that made a version, with the same threads, dtype and micro-batches, and compare the bytes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.specs.jobs import Job, ReproduceSpec
from finch_hub.specs.reports import Change, ReproductionReport
from finch_hub.specs.value import JsonObject, Value
from finch_hub.workers.runs import inputs, kinds
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import JobKind, Outcome, Record

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class ReproduceOrder(Value):
    """What the child needs to repeat a job: its order, and the files, identity and threads of its version."""

    kind: str
    order: JsonObject
    reference: str
    original: Path
    identity: str
    threads: int | None


class ReproduceOutcome(Outcome[ReproductionReport]):
    """How the repeated adapter compares with the version, and the environment that it was made in."""

    environment: JsonObject


def prepare(spec: ReproduceSpec, job: Job, stores: Stores, workdir: Path) -> ReproduceOrder:
    """Prepare the job that made the version, with the choices that were made then."""
    version, folder = inputs.fetch_version(spec.adapter, stores)
    kind = kinds.kind_of(version.kind)
    if kind.repeat is None:
        raise errors.Incompatible(f"a job of the kind {kind.name} makes no version that can be reproduced")
    order = kind.prepare(kind.repeat(version), job, stores, workdir)
    return ReproduceOrder(
        kind=version.kind,
        order=kind.pin(order, version).model_dump(mode="json"),
        reference=version.reference,
        original=folder,
        identity=version.identity,
        threads=version.lineage.environment.get("threads"),
    )


def execute(order: ReproduceOrder, channel: Channel) -> ReproduceOutcome:
    """Repeat the job, pass its adapter through the gate, and compare it with the original."""
    channel.phase("importing")
    from finch_hub.artifacts import gate
    from finch_hub.engine.adapters import comparison
    from finch_hub.engine.numerics.threads import use_threads

    started = time.monotonic()
    kind = kinds.kind_of(order.kind)
    with use_threads(order.threads):
        outcome = kind.execute(kind.order.of(order.order), channel)
    channel.phase("comparing")
    admitted = gate.admit_adapter(outcome.adapter, channel.workdir / "admitted")
    differences = comparison.compare_adapters(order.original, admitted.folder)
    report = ReproductionReport(
        adapter=order.reference,
        kind=order.kind,
        identical=order.identity == admitted.identity,
        identity=order.identity,
        reproduced_identity=admitted.identity,
        config=differences.config,
        tensors=differences.tensors,
        compared=differences.num_tensors,
        seconds=time.monotonic() - started,
    )
    return ReproduceOutcome(report=report, environment=outcome.environment)


def finish(spec: ReproduceSpec, job: Job, outcome: ReproduceOutcome, stores: Stores) -> Record:
    """Add to the report what changed since the version was made. The repeated adapter is not kept."""
    from finch_hub.registry import adapter_versions
    from finch_hub.storage import publishing

    with stores.database.read() as session:
        lineage = adapter_versions.resolve(session, outcome.report.adapter).lineage
    versions = publishing.list_library_versions(stores.catalog, outcome.environment)
    causes = Change.between({**lineage.versions, **lineage.environment}, {**versions, **outcome.environment})
    return outcome.evolve(report=outcome.report.evolve(causes=causes)).record


KIND = JobKind(
    spec=ReproduceSpec,
    order=ReproduceOrder,
    outcome=ReproduceOutcome,
    report=ReproductionReport,
    about=lambda spec: spec.adapter,
    prepare=prepare,
    execute=execute,
    finish=finish,
)
