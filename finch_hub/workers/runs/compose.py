"""Compose adapters into one, find their conflicts, and measure the result on the parents' held-out examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub.plugins import trials
from finch_hub.registry.values import ParentVersion
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.jobs import ComposeSpec, Job, Parent
from finch_hub.specs.reports import CompositionReport
from finch_hub.specs.value import Value
from finch_hub.workers.runs import inputs, model_cache
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import AdapterOutcome, JobKind, Record
from finch_hub.workers.runs.model_cache import BaseOrder

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores


_METRICS = ("strategy", "resolver", "scale", "mean_retention", "worst_retention", "evaluations", "seconds")


class ParentOrder(Value):
    """One parent: its version and files, and the file of its held-out examples."""

    name: str
    folder: Path
    weight: float
    validation: Path | None
    system: str | None
    base_fingerprint: str


class ComposeOrder(Value):
    """What the child needs to compose. `advice` is known before the composition."""

    spec: ComposeSpec
    parents: tuple[ParentOrder, ...]
    base: BaseOrder
    advice: tuple[str, ...] = ()


class ComposeOutcome(AdapterOutcome[CompositionReport]):
    """What the child composed, with the parents' versions."""

    parents: tuple[ParentVersion, ...]


def prepare(spec: ComposeSpec, job: Job, stores: Stores, workdir: Path) -> ComposeOrder:
    """Fetch the parents and their held-out examples."""
    from finch_hub.storage.shared_rows import find_shared_rows

    trials.check_strategy(spec, stores.catalog)
    trials.check_resolver(spec, stores.catalog)
    fetched = [(*inputs.fetch_version(parent.adapter, stores), parent.weight) for parent in spec.parents]
    parents = [
        ParentOrder(
            name=version.reference,
            folder=folder,
            weight=weight,
            validation=inputs.fetch_validation(version, workdir / f"validation-{number}.jsonl", stores, job=job),
            system=version.spec.get("system"),
            base_fingerprint=version.base.fingerprint,
        )
        for number, (version, folder, weight) in enumerate(fetched)
    ]
    base = model_cache.order_base_of(fetched[0][0].base, stores)
    advice = find_shared_rows([version for version, _, _ in fetched], stores)
    if len({version.spec.get("system") for version, _, _ in fetched}) > 1:
        advice += ("the parents have different system prompts, so prompts to the result have none of their own",)
    return ComposeOrder(spec=spec, parents=tuple(parents), base=base, advice=advice)


def execute(order: ComposeOrder, channel: Channel) -> ComposeOutcome:
    """Compose, and leave the result in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.composition.compose import ParentInput, compose
    from finch_hub.engine.training import environment

    parents = [
        ParentInput(**{**dict(parent), "validation": inputs.read_examples(parent.validation)})
        for parent in order.parents
    ]
    base = None
    if any(parent.validation for parent in parents):
        base = channel.bases.load(order.base, say=channel.phase)
    composed = compose(
        parents,
        order.spec,
        trials.make_trials(order.spec, channel.catalog),
        base=base,
        report=channel.report_or_stop,
        between=channel.stop_here,
    )
    composed.save(channel.workdir / "adapter")
    return ComposeOutcome(
        adapter=channel.workdir / "adapter",
        environment=environment.describe(base),
        parents=tuple(ParentVersion(reference=parent.name, weight=parent.weight) for parent in parents),
        report=composed.report.evolve(advice=(*order.advice, *composed.report.advice)),
    )


def finish(spec: ComposeSpec, job: Job, outcome: ComposeOutcome, stores: Stores) -> Record:
    """Store the composition. A version that keeps too little of a parent gets the state `below_retention`."""
    from finch_hub.registry import adapter_versions, values
    from finch_hub.storage import publishing

    with stores.database.read() as session:
        base = adapter_versions.resolve_files(session, outcome.parents[0].reference).base
    forgetting = outcome.report.forgetting
    description = publishing.Description(
        name=spec.adapter,
        kind="compose",
        base=base,
        job_id=job.id,
        owner=job.owner,
        spec=spec.model_dump(mode="json"),
        lineage=values.Lineage(parents=outcome.parents, seed=spec.seed),
        metrics={
            **{name: getattr(outcome.report, name) for name in _METRICS},
            **(forgetting.metrics if forgetting else {}),
        },
        state="below_retention" if outcome.report.below_retention else "ready",
        evidence=Evidence.of_composition(outcome.report),
    )
    create_version = publishing.publish(outcome.adapter, stores, description, outcome.environment)
    return lambda session: outcome.result_of(create_version(session, base))


def _repeat(version: AdapterVersion) -> ComposeSpec:
    # The references of the lineage, since a bare name may mean another version by now.
    parents = tuple(Parent(adapter=parent.reference, weight=parent.weight) for parent in version.lineage.parents)
    return KIND.spec_of(version.spec).evolve(parents=parents)


KIND = JobKind(
    spec=ComposeSpec,
    order=ComposeOrder,
    outcome=ComposeOutcome,
    report=CompositionReport,
    about=lambda spec: f"{spec.adapter} = {' + '.join(parent.adapter for parent in spec.parents)}",
    prepare=prepare,
    execute=execute,
    finish=finish,
    repeat=_repeat,
)
