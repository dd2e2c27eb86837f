"""Results of the demo's steps, and their summary as JSON fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.demo import domains
from examples.demo.plan import ANSWERS, COMPOSITION, KNOWLEDGE, MERGE
from examples.demo.steps import BASE, MEASURING, Steps, reference_of, report_of
from finch_hub import CompositionReport, TrainingReport
from finch_hub.hub.jobs import JobHandle


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the steps have made."""

    measured: TrainingReport
    facts: Mapping[str, Any]
    trained: Mapping[str, JobHandle]
    all_rows: Mapping[str, int]
    composition: JobHandle
    answers: Sequence[Mapping[str, str]]
    merged: Mapping[str, Any]


def summarize(results: Results, steps: Steps) -> dict[str, Any]:
    """Return the summary."""
    environment = results.measured.environment
    composed = report_of(results.composition, CompositionReport)
    retention = {line.parent: line.retention for line in composed.retention}
    names = ("base", "data", MEASURING, KNOWLEDGE, *domains.SOURCES, COMPOSITION, ANSWERS, MERGE)
    seconds = {name: steps.journal.seconds(name) for name in names}
    trained = []
    for domain, job in results.trained.items():
        report, adapter = report_of(job, TrainingReport), reference_of(job)
        trained.append(
            {
                "domain": domain,
                "adapter": adapter,
                "rows": report.data.examples,
                "all_rows": results.all_rows[domain],
                "held_out": report.data.validation_examples,
                "loss_before": report.before.loss if report.before else None,
                "loss_after": report.after.loss if report.after else None,
                "retention": retention[adapter],
                "seconds": seconds[domain],
            }
        )
    return {
        "base": BASE,
        "home": str(steps.hub.settings.home),
        "machine": {
            "dtype": environment.get("dtype"),
            "threads": environment.get("threads"),
            "tokens_per_second": steps.speed.units,
        },
        "domains": trained,
        "facts": dict(results.facts),
        "composition": {
            "adapter": reference_of(results.composition),
            "strategy": composed.strategy,
            "scale": composed.scale,
            "rank": composed.rank,
            "evaluations": composed.evaluations,
            "mean_retention": composed.mean_retention,
            "rows": composed.rows,
        },
        "answers": [dict(answer) for answer in results.answers],
        "merged": dict(results.merged),
        "seconds": seconds,
        "failed_checks": list(steps.failures),
    }
