"""Drawings of the evidence of a version, and of its sample answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from finch_hub.display.compositions import WORST_MODULES, draw_composition, draw_conflicts
from finch_hub.display.reports import draw_report, format_forgetting
from finch_hub.display.tables import Lines, draw_fields, draw_table, format_count, format_number, format_value, group

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from finch_hub.specs.evidence import Absence, Evidence, LayerConflict, LossCurve, Samples

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48
_MEASURES = ("output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio")


def draw_evidence(evidence: Evidence) -> Group:
    """Draw all evidence of a version."""
    parts: list[RenderableType] = [f"Evidence of {evidence.adapter} ({evidence.kind})"]
    if evidence.absence is not None:
        parts.append(explain_absence(evidence.absence))
    if evidence.training is not None:
        parts.append(draw_report(evidence.training))
        data = {name: getattr(evidence.training.data, name) for name in _DATA}
        parts.append(draw_fields({"data": ", ".join(f"{name.replace('_', ' ')} {data[name]:,}" for name in data)}))
    if evidence.curve is not None:
        parts += format_curve(evidence.curve)
    if evidence.composition is not None:
        conflicts = evidence.composition.conflicts.evolve(rows=())  # the composition's drawing has them
        parts += [
            "Before composing:",
            draw_conflicts(conflicts),
            "After composing:",
            draw_composition(evidence.composition),
        ]
        if evidence.module_conflicts > len(conflicts.modules):
            kept = f"the {len(conflicts.modules):,} worst are kept"
            parts.append(f"{evidence.module_conflicts:,} conflicts by module were measured, and {kept}.")
        if evidence.layers:
            parts.append(_draw_layers(evidence.layers))
    if evidence.quantization is not None:
        parts.append(draw_report(evidence.quantization))
    parts += evidence.notes
    if evidence.environment:
        fields = (f"{name} {format_value(value)}" for name, value in _flatten(evidence.environment))
        parts.append(draw_fields({"environment": ", ".join(fields)}))
    parts.append(draw_fields({"samples": evidence.samples}))
    return group(parts)


def _flatten(fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield names and values. Those within an object have its name before theirs."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", part) for inner, part in _flatten(value))
        else:
            yield name, value


_ABSENCES: dict[Absence, str] = {
    "not recorded": "Nothing was recorded when it was made.",
    "pruned": "Nothing is known of its making: its job was pruned before evidence was kept.",
    "purged": "Nothing is known of its making: it was purged.",
    "unreadable": "Its evidence cannot be read: it is damaged, or a newer Finch Hub wrote it (run `finch-hub fsck`).",
}


def explain_absence(absence: Absence) -> str:
    """Return why there is no evidence as a sentence."""
    return _ABSENCES[absence]


_DATA = ("examples", "validation_examples", "tokens", "label_tokens", "truncated", "left_out", "duplicates", "overlap")


def summarize_evidence(evidence: Evidence) -> Lines:
    """Return the most important evidence in a few lines."""
    lines = format_curve(evidence.curve) if evidence.curve is not None else []
    if evidence.data is not None:
        lines.append(
            f"trained on {format_count(evidence.data.examples, 'example')}, "
            f"{evidence.data.validation_examples:,} held out"
        )
    for kept in evidence.retention:
        share = kept.status if kept.retention is None else f"{kept.retention:.3f}"
        losses = " -> ".join(format_number(loss) for loss in (kept.base, kept.own, kept.composed))
        lines.append(f"retention of {kept.parent}: {share} (loss of the base, its own and the composition: {losses})")
    worst = sorted(evidence.layers, key=lambda layer: layer.severity, reverse=True)[:3]
    lines += [
        f"conflict in {_name_layer(layer)}: {_describe_severity(layer)}, most in {layer.worst}" for layer in worst
    ]
    if drift := format_forgetting(evidence.forgetting):
        lines.append(f"drift: {drift}")
    if evidence.composition is not None:
        lines += [f"advice: {line}" for line in evidence.composition.advice]
    return Lines(lines)


def draw_samples(samples: Samples) -> Group:
    """Draw each prompt with its answers."""
    parts: list[RenderableType] = []
    for sample in samples.samples:
        answers = {f"before, by {samples.start or 'the base'}": sample.before, "after": sample.after}
        fields = {"prompt": sample.prompt, "expected": sample.expected, **answers}
        parts += [draw_fields({name: Lines.of(text) for name, text in fields.items()}), ""]
    if any(sample.is_cut for sample in samples.samples):
        parts.append(f"Answers were cut after {samples.max_tokens} tokens, or when their time was over.")
    return group(parts)


def format_curve(curve: LossCurve, *, least: int = 1) -> list[str]:
    """Return the losses as lines of bars, without a line for fewer than `least` losses."""
    lines = []
    for name, losses, steps in (
        ("train loss", curve.train_loss, curve.steps),
        ("held-out loss", curve.held_out_loss, curve.evaluated_steps),
    ):
        if len(losses) >= least:
            lines.append(format_losses(name, losses, steps))
    return lines


def format_losses(name: str, losses: Sequence[float], steps: Sequence[int]) -> str:
    """Return losses as a line of bars between the first one and the last one, with their steps."""
    return f"{name} {losses[0]:.3f} {make_bars(losses)} {losses[-1]:.3f}, steps {steps[0]:,} to {steps[-1]:,}"


def make_bars(values: Sequence[float]) -> str:
    """Return a line of bars for some values, from the lowest to the highest. Of many values, each bar is a mean."""
    width = min(_WIDTH, len(values))
    bounds = [place * len(values) // width for place in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
    least, most = min(means), max(means)
    span = (most - least) or 1.0
    return "".join(_BARS[round((mean - least) / span * (len(_BARS) - 1))] for mean in means)


def _draw_layers(layers: Sequence[LayerConflict]) -> RenderableType:
    worst = sorted(layers, key=lambda layer: layer.severity, reverse=True)[:WORST_MODULES]
    measures = [*_MEASURES, *(["interference"] if any(layer.interference is not None for layer in layers) else [])]
    rows = [
        (
            "-" if layer.layer is None else layer.layer,
            *(format_number(getattr(layer, measure), 2) for measure in measures),
            layer.worst,
        )
        for layer in worst
    ]
    columns = ("layer", *(measure.replace("_", " ") for measure in measures), "worst module")
    return draw_table(columns, rows, title=f"Conflicts in the worst {len(worst)} of {len(layers)} layers")


def _name_layer(layer: LayerConflict) -> str:
    return "modules outside of layers" if layer.layer is None else f"layer {layer.layer}"


def _describe_severity(layer: LayerConflict) -> str:
    if layer.interference is not None:
        return f"interference up to {layer.interference:.2f}"
    return f"opposite signs in {layer.sign_conflict:.0%} of the energy"
