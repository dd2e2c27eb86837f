"""Measure a base and adapters on a data set with an evaluator."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.formats.atomic_writes import atomic_file
from finch_hub.plugins import returned_values
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import EvaluateSpec, Job, JobResult
from finch_hub.specs.reports import EvaluationReport
from finch_hub.specs.value import JsonObject, Value
from finch_hub.workers.runs import inputs, model_cache
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import JobKind, Outcome, Record
from finch_hub.workers.runs.model_cache import BaseOrder

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

BASE = "base"
"""Name of the base without adapter among the results."""


class Subject(Value):
    """Something to measure: a version's files, or the base without adapter."""

    name: str
    system: str | None
    folder: Path | None = None
    fingerprint: str | None = None


class EvaluateOrder(Value):
    """What the child needs to evaluate. The subjects are the base, once for each system prompt, then the adapters."""

    spec: EvaluateSpec
    base: BaseOrder
    subjects: tuple[Subject, ...]
    examples: Path


class EvaluateOutcome(Outcome[EvaluationReport]):
    """What the child measured, with the base."""

    base: BaseDescription


def prepare(spec: EvaluateSpec, job: Job, stores: Stores, workdir: Path) -> EvaluateOrder:
    """Fetch adapters and examples, and check evaluator and parameters."""
    stores.catalog.evaluators[spec.evaluator].parse(spec.parameters)
    subjects: list[Subject] = []
    for reference in spec.adapters:
        version, folder = inputs.fetch_version(reference, stores)
        subjects.append(
            Subject(
                name=version.reference,
                system=version.spec.get("system") if spec.system is None else spec.system,
                folder=folder,
                fingerprint=version.base.fingerprint,
            )
        )
    return EvaluateOrder(
        spec=spec,
        base=model_cache.order_base(spec.base, stores),
        subjects=(*_bases_of(subjects, spec.system), *subjects),
        examples=inputs.fetch_examples(spec.dataset, workdir / "dataset.jsonl", stores),
    )


def _bases_of(adapters: Sequence[Subject], system: str | None) -> list[Subject]:
    """Return the base once for each system prompt, so that each adapter is compared on the same tokens."""
    prompts: dict[str | None, str] = {}
    for adapter in adapters:
        name = f"{BASE} with the system prompt of {adapter.name}" if adapter.system else f"{BASE} without system prompt"
        prompts.setdefault(adapter.system, name)
    if len(prompts) < 2:
        prompts = dict.fromkeys(prompts or (system,), BASE)
    return [Subject(name=name, system=prompt) for prompt, name in prompts.items()]


def execute(order: EvaluateOrder, channel: Channel) -> EvaluateOutcome:
    """Evaluate the base, then each adapter."""
    channel.phase("importing")
    from finch_hub.engine.data.prompted_examples import PromptedExamples
    from finch_hub.engine.inference.generator import GeneratorModel

    evaluator = channel.catalog.evaluators[order.spec.evaluator]
    parameters, kernel = evaluator.parse(order.spec.parameters), evaluator.load()
    base = channel.bases.load(order.base, say=channel.phase)
    for subject in order.subjects:
        if subject.fingerprint is not None:
            model_cache.check_fingerprint(
                base.folder, subject.fingerprint, subject.name, base.name, cache=order.base.cache
            )
    rows = inputs.read_examples(order.examples)
    model = GeneratorModel(base)
    results: dict[str, JsonObject] = {}
    unusable: dict[str, str] = {}
    figures_of = channel.checkpoints / f"figures-{base.fingerprint[-16:]}"  # a branch can move between two attempts
    for number, subject in enumerate(order.subjects):
        name, kept = subject.name, figures_of / f"{number}.json"
        if (figures := _read_kept(kept)) is not None:  # an earlier attempt has measured it
            results[name] = figures
            continue
        channel.phase(f"measuring {name}")
        if subject.folder is not None:
            model.load_lora(subject.folder, name)
        try:
            figures = kernel(model, PromptedExamples(rows, subject.system), parameters)
        except errors.Diverged as error:
            if subject.folder is None:
                raise
            # The gate knows bounds of the update, and only the base shows what it does.
            unusable[name] = str(error)
            channel.report(NewEvent(type="message", level="error", message=f"{name} is quarantined: {error}"))
            model.unload(name)
            continue
        results[name] = returned_values.to_plain(figures, owner=evaluator.label, expected="figures by names")
        _keep(results[name], kept)
        text = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in results[name].items())
        channel.report(NewEvent(type="metrics", message=f"{name}: {text}", data={"name": name, **results[name]}))
        if subject.folder is not None:
            model.unload(name)  # without its last adapter the base is unchanged for the next job
    report = EvaluationReport(
        evaluator=order.spec.evaluator,
        dataset=order.spec.dataset,
        results=results,
        bases=tuple(subject.name for subject in order.subjects if subject.folder is None),
        unusable=unusable,
    )
    return EvaluateOutcome(report=report, base=model_cache.describe_base(base, order.base))


def _keep(figures: JsonObject, file: Path) -> None:
    """Write figures for the next attempt. Without them it measures again, so a disk that is full does no harm."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as unfinished:
            unfinished.write_text(json.dumps(figures, default=str), encoding="utf-8")


def _read_kept(file: Path) -> JsonObject | None:
    """Return the figures that an earlier attempt kept, None if there are none or the file is damaged."""
    try:
        figures = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def finish(spec: EvaluateSpec, job: Job, outcome: EvaluateOutcome, stores: Stores) -> Record:
    """Register the figures of the base and of each adapter, and quarantine adapters that the base cannot use."""
    from finch_hub.registry import adapter_versions, bases, evaluations
    from finch_hub.storage.base_registration import find_earlier_fingerprint

    report = outcome.report
    adapters = report.results.keys() - set(report.bases)
    earlier = find_earlier_fingerprint(outcome.base, stores)

    def record(session: Session) -> JobResult:
        base = bases.add(session, outcome.base, earlier_fingerprint=earlier, job_id=job.id)
        for name, metrics in report.results.items():
            evaluations.add(
                session,
                base_id=base.id,
                dataset=report.dataset,
                evaluator=report.evaluator,
                metrics=metrics if name in (BASE, *adapters) else {**metrics, "measured_as": name},
                adapter=name if name in adapters else None,
                job_id=job.id,
            )
        for reference in report.unusable:
            adapter_versions.quarantine(session, reference, job_id=job.id)
        return outcome.record(session)

    return record


KIND = JobKind(
    spec=EvaluateSpec,
    order=EvaluateOrder,
    outcome=EvaluateOutcome,
    report=EvaluationReport,
    about=lambda spec: f"{spec.evaluator} of {', '.join(spec.adapters) or spec.base.source}",
    prepare=prepare,
    execute=execute,
    finish=finish,
)
