"""Drawings of the reports that jobs return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.display.compositions import draw_composition, draw_conflicts, draw_pairs
from finch_hub.display.tables import draw_fields, draw_table, format_bytes, format_count, group, to_json

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.reports import (
        Change,
        DataReport,
        EvaluationReport,
        Forgetting,
        MergeReport,
        QuantizationReport,
        ReproductionReport,
        TokenMetrics,
        TrainingReport,
    )
    from finch_hub.specs.value import Value

WORST_TENSORS = 8


def draw_result(result: AdapterVersion | Value, report: Value) -> RenderableType:
    """Draw the version that a job made, if it made one, and its report."""
    from finch_hub.registry.values import AdapterVersion

    if not isinstance(result, AdapterVersion):
        return draw_report(report)
    state = "" if result.state == "ready" else f" ({result.state})"
    return group([f"Created adapter {result.reference}{state}", draw_report(report)])


def draw_report(report: Value) -> RenderableType:
    """Draw a report. One without a drawing of its own is drawn as names and values."""
    draw = DRAWINGS.get(type(report).__name__)
    return draw(report) if draw is not None else draw_fields(to_json(report))


def draw_interim(data: Mapping[str, Any]) -> RenderableType:
    """Draw a report of a running job. A report that the job's end repeats is drawn empty."""
    from finch_hub.specs.reports import ConflictReport, DataReport

    if data.get("name") == "conflicts":
        return draw_pairs(ConflictReport.of_stored(data["report"]).pairs)
    if data.get("name") == "data":
        report = DataReport.of_stored(data["report"])
        parts = [
            f"{format_count(report.examples, 'training example')}, {report.validation_examples} for validation",
            f"{report.tokens:,} tokens ({1 - report.masked_share:.0%} learned)",
            f"{report.length_mean:.0f} tokens per example, {report.length_max:,} at most",
        ]
        parts += _list_oddities(report)
        estimate = f", about {report.seconds:.0f} s" if report.seconds else ""
        return f"  {', '.join(parts)}; {format_count(report.steps, 'step')}{estimate}"
    return ""


def _list_oddities(report: DataReport) -> list[str]:
    oddities = {
        "truncated": report.truncated,
        "repeated": report.duplicates,
        "validation examples that are trained on too": report.overlap,
        "validation examples with a prompt that is trained on": report.shared_prompts,
        "validation examples that nearly equal a trained one": report.near_duplicates,
        "left out": report.left_out,
    }
    return [f"{count} {oddity}" for oddity, count in oddities.items() if count]


def draw_training(report: TrainingReport) -> RenderableType:
    """Draw held-out loss before and after a training, and its cost."""
    trainable, total = report.trainable_parameters, report.total_parameters
    speed = report.tokens / max(report.seconds, 1e-9)
    return draw_fields(
        {
            "held-out loss": format_loss_change(report.before, report.after, evaluations=report.evaluations),
            "accuracy": _format_accuracy_change(report.before, report.after),
            "data": ", ".join(_list_oddities(report.data)) or None,
            "forgetting": format_forgetting(report.forgetting),
            "steps": f"{report.steps} ({report.epochs:.3g} epochs{', stopped early' if report.stopped_early else ''})",
            "tokens": f"{report.tokens:,} in {report.seconds:.0f} s ({speed:,.0f}/s)",
            "trainable": f"{trainable:,} of {total:,} parameters ({trainable / max(total, 1):.2%})",
        }
    )


def draw_evaluation(report: EvaluationReport) -> RenderableType:
    """Draw the metrics of the base and of each adapter."""
    names = list(dict.fromkeys(name for metrics in report.results.values() for name in metrics))
    shown = [name for name in names if not any(isinstance(m.get(name), (list, dict)) for m in report.results.values())]
    rows = [(model, *(metrics.get(name) for name in shown)) for model, metrics in report.results.items()]
    rows += [(f"{model} (quarantined: its values are not finite)", *(None for _ in shown)) for model in report.unusable]
    return draw_table(("model", *shown), rows, title=f"{report.evaluator} on {report.dataset[:12]}")


def draw_merge(report: MergeReport) -> RenderableType:
    """Draw what a merge wrote, and how its logits compare with the adapter's."""
    comparison = None
    if report.max_logit_difference is not None and report.argmax_agreement is not None:
        agreement = f"the next token agrees at {report.argmax_agreement:.1%} of the positions"
        comparison = f"logits differ from the adapter's by {report.max_logit_difference:.3g} at most; {agreement}"
    return draw_fields(
        {
            "model": report.out,
            "modules": report.modules,
            "written": f"{format_bytes(report.bytes_written)} in {report.seconds:.1f} s",
            "verified": comparison,
        }
    )


def draw_quantization(report: QuantizationReport) -> RenderableType:
    """Draw size, error and held-out loss of a quantized adapter."""
    share = report.bytes_after / max(report.bytes_before, 1)
    return draw_fields(
        {
            "scheme": f"{report.scheme}, {f'groups of {report.group}' if report.group else 'per channel'}",
            "size": f"{format_bytes(report.bytes_before)} -> {format_bytes(report.bytes_after)} ({share:.0%})",
            "error of the update": f"{report.relative_error:.2%}",
            "held-out loss": format_loss_change(report.before, report.after),
        }
    )


def draw_reproduction(report: ReproductionReport) -> Group:
    """Draw whether the bytes are the same, and if not, the differences and what changed."""
    identity, tensors = f"{report.identity[:12]}…", report.tensors
    summary = f"Reproduced {report.adapter} byte for byte in {report.seconds:.0f} s ({identity})"
    if not report.identical:
        summary = f"{report.adapter} was not reproduced: {len(tensors)} of {report.compared} tensors differ "
        summary += f"({identity} became {report.reproduced_identity[:12]}…)"
    parts: list[RenderableType] = [summary]
    if report.config:
        parts.append(_draw_changes(report.config, title="adapter_config.json"))
    if worst := tensors[:WORST_TENSORS]:
        rows = [
            (t.name, t.what or f"{t.relative:.2e}", None if t.largest is None else f"{t.largest:.2e}") for t in worst
        ]
        title = f"The {len(worst)} most different of {len(tensors)} tensors"
        parts.append(draw_table(("tensor", "relative difference", "largest"), rows, title=title))
    if report.causes:
        parts.append(_draw_changes(report.causes, title="What changed since the original"))
    elif not report.identical:
        parts.append("nothing that the lineage records has changed")
    return group(parts)


def _draw_changes(changes: Sequence[Change], *, title: str) -> RenderableType:
    rows = [(change.name, change.original, change.reproduced) for change in changes]
    return draw_table(("", "original", "reproduced"), rows, title=title)


def format_loss_change(before: TokenMetrics | None, after: TokenMetrics | None, *, evaluations: int = 0) -> str | None:
    """Format the change of the held-out loss, None without both measurements.

    Args:
        evaluations: number of evaluations of which `after` is the best one.
    """
    if before is None or after is None:
        return None
    examples = format_count(after.examples, "example")
    choice = f", the best of {evaluations} evaluations" if evaluations > 1 else ""
    return f"{before.loss:.3f} -> {after.loss:.3f} ({after.loss / before.loss - 1:+.1%}, {examples}{choice})"


def format_forgetting(report: Forgetting | None) -> str | None:
    """Format the distance from the base on general prompts, None without a measurement."""
    if report is None:
        return None
    change = f"{report.before:.3f} -> {report.after:.3f}" if report.before else f"{report.after:.3f}"
    return f"{change} nats per token from the base on general prompts"


def _format_accuracy_change(before: TokenMetrics | None, after: TokenMetrics | None) -> str | None:
    if before is None or after is None:
        return None
    return f"{before.accuracy:.1%} -> {after.accuracy:.1%} of the completion tokens"


# By name, since the reports' module loads pydantic.
DRAWINGS: dict[str, Callable[[Any], RenderableType]] = {
    "TrainingReport": draw_training,
    "CompositionReport": draw_composition,
    "ConflictReport": draw_conflicts,
    "EvaluationReport": draw_evaluation,
    "MergeReport": draw_merge,
    "QuantizationReport": draw_quantization,
    "ReproductionReport": draw_reproduction,
}
