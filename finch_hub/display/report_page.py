"""What a report tells of a version or of a job, as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finch_hub.display.adapters import format_deletion, format_evidence, format_pulled
from finch_hub.display.charts.chart import Chart, format_figure
from finch_hub.display.charts.conflicts import chart_conflicts
from finch_hub.display.charts.data import chart_left_out, chart_lengths
from finch_hub.display.charts.drift import chart_drift
from finch_hub.display.charts.loss_curve import chart_losses
from finch_hub.display.charts.retention import chart_retention
from finch_hub.display.evidence import explain_absence
from finch_hub.display.page import Fields, Page, Section, Table
from finch_hub.display.reports import format_loss_change
from finch_hub.display.tables import format_bytes, format_duration, format_value, to_json
from finch_hub.specs.value import JsonObject

if TYPE_CHECKING:
    from finch_hub.registry.values import LineageGraph
    from finch_hub.specs.evidence import Evidence, Samples
    from finch_hub.specs.reports import CompositionReport, QuantizationReport, TrainingReport
    from finch_hub.specs.value import Value

_MAX_LIST = 40  # items of a value


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """What is known of a version, or of a job.

    Attributes:
        title: what the report is about.
        summary: names and values that come first.
        report: report of a job of a kind without evidence.
        samples: sample answers, if they were asked for.
        spec: settings of the job.
        command: command that repeats the job; None if there is none.
        has_job: whether a job made it, or is it.
    """

    title: str
    summary: Mapping[str, object]
    evidence: Evidence | None = None
    report: Value | None = None
    samples: Samples | None = None
    lineage: LineageGraph | None = None
    spec: JsonObject = field(default_factory=dict)
    command: str | None = None
    has_job: bool = True


def make_page(facts: ReportFacts) -> Page:
    """Return the page of a report. Sections of what is not known are left out."""
    return Page(title=facts.title, sections=tuple(_list_sections(facts)))


def _list_sections(facts: ReportFacts) -> Iterator[Section]:
    evidence = facts.evidence
    verdict = tuple(_judge(evidence)) if evidence is not None else ()
    yield Section(heading="Summary", texts=verdict, fields=_format_fields(facts.summary))
    if evidence is not None:
        yield from _show_evidence(evidence)
    if facts.report is not None:
        yield from _show_report(facts.report)
    if facts.samples is not None:
        yield _show_samples(facts.samples)
    if facts.lineage is not None:
        yield _show_lineage(facts.lineage)
    if facts.spec:
        yield Section(heading="Settings", fields=_format_fields(_flatten(facts.spec)))
    if facts.has_job:
        yield _show_command(facts)
    if evidence is not None and evidence.environment:
        yield Section(heading="Environment", fields=_format_fields(_flatten(evidence.environment)))


def _judge(evidence: Evidence) -> Iterator[str]:
    """Yield sentences that tell the most important findings."""
    if evidence.absence is not None:
        yield explain_absence(evidence.absence)
    training, composition = evidence.training, evidence.composition
    if training is not None:
        change = format_loss_change(training.before, training.after, evaluations=training.evaluations)
        yield f"Held-out loss: {change}." if change is not None else "Nothing was held out, so no quality was measured."
    if composition is not None:
        measured = [kept for kept in composition.retention if kept.retention is not None]
        if measured:
            worst = min(measured, key=lambda kept: kept.retention or 0.0)
            yield f"It keeps least of {worst.parent}: {worst.retention:.0%} of its gain over the base."
        else:
            yield "What it keeps of its parents was not measured."
        for parent in composition.below_retention:
            yield f"It keeps less of {parent} than was requested."
    forgetting = evidence.forgetting
    if forgetting is not None and forgetting.warning:
        yield f"{forgetting.warning[0].upper()}{forgetting.warning[1:]}."
    if composition is not None:
        yield from (f"Advice: {line}" for line in composition.advice)
    yield from evidence.notes


def _show_evidence(evidence: Evidence) -> Iterator[Section]:
    losses = chart_losses(evidence.curve) if evidence.curve is not None else None
    if evidence.training is not None or losses is not None:
        fields = _describe_training(evidence.training) if evidence.training is not None else ()
        yield Section(heading="Training", fields=fields, charts=_drawn(losses))
    if (data := evidence.data) is not None:
        fields = _format_fields({
            "rows read": None if data.reading is None else f"{data.reading.rows:,}",
            "examples": f"{data.examples:,}, and {data.validation_examples:,} held out",
            "tokens": f"{data.tokens:,}, of which {data.label_tokens:,} are learned",
        })  # fmt: skip
        left_out = chart_left_out(data)
        texts = () if left_out is not None else ("No row was left out, cut or repeated.",)
        yield Section(heading="Data", texts=texts, fields=fields, charts=_drawn(chart_lengths(data), left_out))
    if evidence.composition is not None:
        yield from _show_composition(evidence, evidence.composition)
    if evidence.quantization is not None:
        yield Section(heading="Quantization", fields=_describe_quantization(evidence.quantization))
    if evidence.forgetting is not None:
        before = "its parents, at most" if evidence.composition is not None else "its start"
        yield Section(heading="Drift", charts=_drawn(chart_drift(evidence.forgetting, before=before)))


def _show_composition(evidence: Evidence, report: CompositionReport) -> Iterator[Section]:
    rows = {
        "report": "The rows of these figures did not choose the composition.",
        "selection": "The rows of these figures also chose the composition, so they are a little too good.",
        "none": "No parent has rows on which its retention can be measured.",
    }
    fields = _format_fields({
        "strategy": report.strategy, "parameters": report.parameters or None, "resolver": report.resolver,
        "scale": report.scale, "rank": report.rank, "evaluations": report.evaluations,
        "mean retention": report.mean_retention, "worst retention": report.worst_retention,
        "better than plain linear by": report.won_by,
    })  # fmt: skip
    charts = _drawn(chart_retention(report.retention))
    yield Section(heading="Retention", texts=(rows[report.rows],), fields=fields, charts=charts)
    conflicts = chart_conflicts(evidence)
    pairs = tuple(
        (f"{pair.first} + {pair.second}", *(format_figure(getattr(pair, name), 2) for name in _MEASURES))
        for pair in report.conflicts.pairs[:_MAX_LIST]
    )
    columns = ("pair", *(name.replace("_", " ") for name in _MEASURES))
    tables = (Table(title="Conflicts by pair, over all modules", columns=columns, rows=pairs),) if pairs else ()
    texts = () if conflicts is not None else ("No two parents change the same module.",)
    advice = tuple(filter(None, (report.conflicts.advice, *report.conflicts.reasons)))
    yield Section(heading="Conflicts", texts=(*texts, *advice), charts=_drawn(conflicts), tables=tables)


_MEASURES = ("output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio", "interference")


def _describe_training(report: TrainingReport) -> Fields:
    stopped = ", stopped early" if report.stopped_early else ""
    before, after = report.before, report.after
    is_known = before is not None and after is not None
    accuracy = f"{before.accuracy:.1%} -> {after.accuracy:.1%}" if is_known and before and after else None
    share = report.trainable_parameters / max(report.total_parameters, 1)
    return _format_fields({
        "held-out loss": format_loss_change(before, after, evaluations=report.evaluations),
        "held-out accuracy": accuracy,
        "best step": report.best_step,
        "steps": f"{report.steps:,} ({report.epochs:.3g} epochs{stopped})",
        "tokens": f"{report.tokens:,} in {format_duration(report.seconds)}",
        "trained parameters": f"{report.trainable_parameters:,} of {report.total_parameters:,} ({share:.2%})",
    })  # fmt: skip


def _describe_quantization(report: QuantizationReport) -> Fields:
    return _format_fields({
        "scheme": report.scheme,
        "values that share a scale": report.group,
        "size": f"{format_bytes(report.bytes_before)} -> {format_bytes(report.bytes_after)}",
        "error of the update": f"{report.relative_error:.2%}",
        "held-out loss": format_loss_change(report.before, report.after),
    })  # fmt: skip


def _show_report(report: Value) -> Iterator[Section]:
    """Yield the report of a kind without evidence as names and values, with a table of results by model."""
    values = to_json(report)
    results = values.pop("results", None)
    tables: tuple[Table, ...] = ()
    if isinstance(results, dict) and all(isinstance(metrics, dict) for metrics in results.values()):
        single = (name for m in results.values() for name, value in m.items() if not isinstance(value, dict | list))
        names = list(dict.fromkeys(single))
        rows = tuple(
            (model, *(format_value(metrics.get(name)) for name in names)) for model, metrics in results.items()
        )
        tables = (Table(title="Metrics by model", columns=("model", *names), rows=rows),)
    yield Section(heading="Report", fields=_format_fields(_flatten(values)), tables=tables)


def _show_samples(samples: Samples) -> Section:
    before = f"before, by {samples.start or 'the base'}"
    quotes = tuple(
        (("prompt", sample.prompt), ("expected", sample.expected), (before, sample.before), ("after", sample.after))
        for sample in samples.samples
    )
    cut = f" Some were cut after {samples.max_tokens} tokens." if any(s.is_cut for s in samples.samples) else ""
    return Section(heading="Sample answers", texts=(f"They quote rows of the data.{cut}",), quotes=quotes)


def _show_lineage(graph: LineageGraph) -> Section:
    parents: dict[str, list[str]] = {}
    for link in graph.links:
        parents.setdefault(link.version, []).append(f"{link.parent} x {link.weight:g}")
    rows = tuple(
        (
            version.reference,
            version.kind,
            ", ".join(parents.get(version.reference, ())) or format_pulled(version) or "-",
            format_deletion(version) or format_evidence(version.metrics),
            format_value(version.created_at),
        )
        for version in graph.versions
    )
    texts = tuple(f"The registry lacks a parent of {reference}." for reference in graph.incomplete)
    table = Table(
        title="Versions, nearest first", columns=("version", "kind", "made from", "result", "created"), rows=rows
    )
    return Section(heading="Lineage", texts=texts, tables=(table,))


def _show_command(facts: ReportFacts) -> Section:
    if facts.command is None:
        text = "There is no command for these settings: submit the job in Python."
        return Section(heading="Repeat it", texts=(text,))
    text = "This command submits the job again, with the same examples:"
    return Section(heading="Repeat it", texts=(text,), code=facts.command)


def _drawn(*charts: Chart | None) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return names and values, without empty ones. A value in another has the name of that before its own."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name} ")
        elif value is not None and value != [] and value != {} and value != "":
            flat[f"{prefix}{name}"] = value
    return flat


def _format_fields(values: Mapping[str, object]) -> Fields:
    return tuple((name.replace("_", " "), _format(value)) for name, value in values.items() if value is not None)


def _format(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [_format(part) for part in value[:_MAX_LIST]]
        return ", ".join([*parts, *(["…"] if len(value) > _MAX_LIST else [])])
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format(part)}" for name, part in value.items())
    return value if isinstance(value, str) else format_value(value)


def add_summary(facts: ReportFacts, summary: Mapping[str, object]) -> ReportFacts:
    """Return the facts with further names and values behind their summary."""
    return dataclasses.replace(facts, summary={**facts.summary, **summary})
