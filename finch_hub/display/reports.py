"""Reports drawn in the terminal: training, conflicts, retention, evaluation and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.display import tables

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.reports import (
        Change,
        CompositionReport,
        ConflictReport,
        DataReport,
        EvaluationReport,
        MergeReport,
        PairConflict,
        QuantizationReport,
        ReproductionReport,
        TokenMetrics,
        TrainingReport,
    )
    from finch_hub.specs.value import Value

    Report = Value | dict[str, Any]

WORST_MODULES = 8
WORST_TENSORS = 8


def outcome(result: AdapterVersion | Report, report: Report) -> RenderableType:
    """Draw what a job made, and its evidence."""
    from finch_hub.registry.values import AdapterVersion

    if not isinstance(result, AdapterVersion):
        return draw(report)
    state = "" if result.state == "ready" else f" ({result.state})"
    return _group([f"{result.reference}{state}", draw(report)])


def draw(report: Report) -> RenderableType:
    """Draw a report of any kind; what has no form of its own as names and values."""
    forms: dict[str, Callable[[Any], RenderableType]] = {
        "TrainingReport": training,
        "CompositionReport": composition,
        "ConflictReport": conflicts,
        "EvaluationReport": evaluation,
        "MergeReport": merge,
        "QuantizationReport": quantization,
        "ReproductionReport": reproduction,
    }
    form = forms.get(type(report).__name__)
    return form(report) if form is not None else tables.fields(tables.plain(report))


def interim(data: dict[str, Any]) -> RenderableType:
    """Draw a report that a job tells of while it runs; empty for those that its end tells better."""
    from finch_hub.specs import reports

    if data.get("name") == "conflicts":
        return _pairs(reports.ConflictReport.of(data["report"]).pairs, title="Conflicts by pair, over all modules")
    if data.get("name") == "data":
        found = reports.DataReport.of(data["report"])
        parts = [
            f"{tables.counted(found.examples, 'example')} and {found.validation_examples} held out",
            f"{found.tokens:,} tokens, {1 - found.masked_share:.0%} of them learnt",
            f"{found.length_mean:.0f} an example, {found.length_max:,} at most",
        ]
        parts += [f"{number} {what}" for what, number in _oddities(found) if number]
        estimate = f", about {found.seconds:.0f} s" if found.seconds else ""
        return f"  {', '.join(parts)}; {tables.counted(found.steps, 'step')}{estimate}"
    return ""


def _oddities(report: DataReport) -> tuple[tuple[str, int], ...]:
    return ("truncated", report.truncated), ("repeated", report.duplicates), ("also held out", report.overlap)


def training(report: TrainingReport) -> RenderableType:
    """Draw the evidence of one training: held-out loss before and after, and what it took."""
    pairs: dict[str, Any] = {
        "held-out loss": _before_after(report.before, report.after),
        "accuracy": _accuracy(report.before, report.after),
        "steps": f"{report.steps} ({report.epochs:.3g} epochs{', stopped early' if report.stopped_early else ''})",
        "tokens": f"{report.tokens:,} in {report.seconds:.0f} s ({report.tokens / max(report.seconds, 1e-9):,.0f}/s)",
        "trainable": f"{report.trainable_parameters:,} of {report.total_parameters:,} parameters "
        f"({report.trainable_parameters / max(report.total_parameters, 1):.2%})",
    }
    return tables.fields(pairs)


def _before_after(before: TokenMetrics | None, after: TokenMetrics | None) -> str | None:
    if before is None or after is None:
        return None
    examples = tables.counted(after.examples, "example")
    return f"{before.loss:.3f} -> {after.loss:.3f} ({after.loss / before.loss - 1:+.1%}, {examples})"


def _accuracy(before: TokenMetrics | None, after: TokenMetrics | None) -> str | None:
    if before is None or after is None:
        return None
    return f"{before.accuracy:.1%} -> {after.accuracy:.1%} of the completion tokens"


def conflicts(report: ConflictReport) -> Group:
    """Draw what composing would meet: by pair, the worst modules, what cannot go together, and the advice."""
    parts: list[RenderableType] = [
        _pairs(report.pairs, title="Conflicts by pair, over all modules"),
        _pairs(_worst(report.modules), title=f"The worst modules of {len({m.module for m in report.modules})}"),
    ]
    if report.hidden_shifts:
        rows = [(s.first, s.second, s.shift) for s in report.hidden_shifts]
        title = "Shift of the hidden states on inputs of the first when the second acts too"
        parts.append(tables.table(("on", "with", "shift"), rows, title=title))
    if report.forecasts:
        lines = [(f.strategy, f.scale, *(_figure(kept, 2) for kept in f.kept)) for f in report.forecasts]
        title = "Forecast: about what each would keep of its parents' gains"
        parts.append(tables.table(("strategy", "scale", *report.parents), lines, title=title))
    if report.structural:
        parts.append("cannot go together:\n" + "\n".join(f"  {line}" for line in report.structural))
    if report.advice:
        parts.append(f"advice: {report.advice}\n" + "\n".join(f"  - {reason}" for reason in report.reasons))
    return _group(parts)


def _worst(modules: Iterable[PairConflict]) -> list[PairConflict]:
    def weight(pair: PairConflict) -> float:
        return float(pair.interference if pair.interference is not None else pair.sign_conflict)

    return sorted(modules, key=weight, reverse=True)[:WORST_MODULES]


def _pairs(pairs: Sequence[PairConflict], *, title: str) -> RenderableType:
    measures = ["output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio"]
    if any(pair.interference is not None for pair in pairs):
        measures.append("interference")
    named = any(pair.module for pair in pairs)
    rows = [
        (
            *([pair.module] if named else []),
            f"{pair.first} + {pair.second}",
            *(_figure(getattr(pair, measure), 2) for measure in measures),
        )
        for pair in pairs
    ]
    columns = ["pair", *(measure.replace("_", " ") for measure in measures)]
    return tables.table(["module", *columns] if named else columns, rows, title=title)


def composition(report: CompositionReport) -> Group:
    """Draw the evidence of one composition: the retention matrix, what else was tried, what it lost."""
    rows = [
        (
            kept.parent,
            *(_figure(value) for value in (kept.base, kept.own, kept.composed, kept.linear)),
            _figure(kept.retention) if kept.status == "measured" else kept.status,
            kept.examples,
        )
        for kept in report.retention
    ]
    columns = ("parent", "base", "own adapter", "composed", "plain linear", "retention", "examples")
    how = f"{report.strategy} {_settings(report.parameters)}after {report.resolver}"
    parts: list[RenderableType] = [
        f"{how}, scale {report.scale:.3g}, rank {report.rank}, "
        f"{report.evaluations} evaluations in {report.seconds:.1f} s",
        tables.table(columns, rows, title="Held-out loss on each parent's validation set, and what the parent keeps"),
    ]
    if report.candidates:
        tried = sorted(report.candidates, key=lambda c: -1e9 if c.worst is None else c.worst, reverse=True)
        candidate_rows = [
            (
                c.strategy if c.resolver == "keep" else f"{c.resolver}, {c.strategy}",
                _settings(c.parameters) or "-",
                f"{c.scale:.3g}",
                _figure(c.worst),
                _figure(c.mean),
            )
            for c in tried
        ]
        parts.append(
            tables.table(("strategy", "parameters", "scale", "worst", "mean"), candidate_rows, title="What was tried")
        )
    if report.mean_retention is not None:
        parts.append(f"retention: {report.mean_retention:.3f} on average, {report.worst_retention:.3f} at worst")
    if report.below_retention:
        parts.append(f"below the asked retention: {', '.join(report.below_retention)}")
    parts.extend(f"advice: {line}" for line in report.advice)
    return _group(parts)


def evaluation(report: EvaluationReport) -> RenderableType:
    """Draw an evaluator's metrics, the base first."""
    names = list(dict.fromkeys(name for metrics in report.results.values() for name in metrics))
    shown = [name for name in names if not any(isinstance(m.get(name), (list, dict)) for m in report.results.values())]
    rows = [(model, *(metrics.get(name) for name in shown)) for model, metrics in report.results.items()]
    return tables.table(("model", *shown), rows, title=f"{report.evaluator} on {report.dataset[:12]}")


def merge(report: MergeReport) -> RenderableType:
    """Draw what a merge wrote and how it was verified."""
    verified = None
    if report.max_logit_difference is not None and report.argmax_agreement is not None:
        agreement = f"the same next token at {report.argmax_agreement:.1%} of the places"
        verified = f"logits differ from the adapter's by {report.max_logit_difference:.3g} at most, {agreement}"
    return tables.fields(
        {
            "model": report.out,
            "modules": report.modules,
            "written": f"{tables.size(report.bytes_written)} in {report.seconds:.1f} s",
            "verified": verified,
        }
    )


def quantization(report: QuantizationReport) -> RenderableType:
    """Draw size, error and held-out loss of a quantised adapter."""
    share = report.bytes_after / max(report.bytes_before, 1)
    return tables.fields(
        {
            "scheme": f"{report.scheme}, {f'groups of {report.group}' if report.group else 'per channel'}",
            "size": f"{tables.size(report.bytes_before)} -> {tables.size(report.bytes_after)} ({share:.0%})",
            "error of the update": f"{report.relative_error:.2%}",
            "held-out loss": _before_after(report.before, report.after),
        }
    )


def reproduction(report: ReproductionReport) -> RenderableType:
    """Draw whether the same bytes came out, and if not, where they differ and what is not as it was."""
    if report.identical:
        parts: list[RenderableType] = [
            f"{report.adapter} came out again, byte for byte, in {report.seconds:.0f} s ({report.identity[:12]}…)"
        ]
    else:
        parts = [
            f"{report.adapter} ({report.identity[:12]}…) came out otherwise ({report.reproduced_identity[:12]}…): "
            f"{len(report.tensors)} of {report.compared} tensors differ"
        ]
        if report.config:
            parts.append(_changes(report.config, title="adapter_config.json"))
        if report.tensors:
            rows = [
                (one.name, one.what or f"{one.relative:.2e}", "-" if one.largest is None else f"{one.largest:.2e}")
                for one in report.tensors[:WORST_TENSORS]
            ]
            columns = ("tensor", "relative difference", "largest")
            parts.append(tables.table(columns, rows, title=f"The most different of {len(report.tensors)} tensors"))
    if report.causes:
        parts.append(_changes(report.causes, title="Not as it was then"))
    elif not report.identical:
        parts.append("nothing that lineage records has changed since")
    return _group(parts)


def _changes(changes: Sequence[Change], *, title: str) -> RenderableType:
    rows = [(change.name, change.original, change.reproduced) for change in changes]
    return tables.table(("", "then", "now"), rows, title=title)


def check_reproduced(report: Report) -> None:
    """Let the command fail where the bytes are others.

    Raises:
        NotReproduced: they are.

    """
    from finch_hub.specs.reports import ReproductionReport

    if isinstance(report, ReproductionReport) and not report.identical:
        raise errors.NotReproduced(f"{report.adapter} was not reproduced: {len(report.tensors)} tensors differ")


def _figure(value: float | None, places: int = 3) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _settings(parameters: dict[str, Any]) -> str:
    return "".join(f"{name}={value} " for name, value in parameters.items() if value is not None)


def _group(parts: Sequence[RenderableType]) -> Group:
    from rich.console import Group

    return Group(*parts)
