"""Limits of an adapter for its model card: what was not measured, and why figures may be too good."""

from __future__ import annotations

from collections.abc import Iterator

from finch_hub.formats.markdown import format_code
from finch_hub.specs.cards import CardFacts
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.reports import DataReport

_FEW_EXAMPLES, _FEW_HELD_OUT = 200, 50


def list_limits(facts: CardFacts) -> Iterator[str]:
    """Yield a sentence for each limit that follows from the facts."""
    evidence = facts.evidence or Evidence(kind=facts.kind)
    yield from _of_state(facts)
    if evidence.data is not None:
        yield from _of_data(evidence.data)
    yield from _of_figures(facts, evidence)
    yield from _of_composition(evidence)
    if (forgetting := evidence.forgetting) is None:
        yield "How far it moved from its base on general prompts was not measured."
    elif forgetting.is_high:
        moved = f"{forgetting.after:.3g} nats per token"
        yield f"On general prompts it moved by {moved} from its base, so it may have lost other abilities."
    yield "Its safety, its biases and its answers to other tasks were not measured."
    base = facts.base
    page = f"[its card](https://huggingface.co/{base.hub_id})" if base.hub_id is not None else "its card"
    yield f"The limits of the base {format_code(base.label)} hold too: see {page}."


def _of_state(facts: CardFacts) -> Iterator[str]:
    if facts.state == "quarantined":
        yield "Its weights are unusually large, so it is in quarantine and may give bad answers."
    if facts.state == "unchecked":
        yield "It was not held against its base yet."
    if facts.kind == "import":
        yield "It was imported, so how it was trained is not known here."


def _of_data(data: DataReport) -> Iterator[str]:
    if data.examples < _FEW_EXAMPLES:
        yield f"It was trained on {data.examples:,} examples only."
    if 0 < data.validation_examples < _FEW_HELD_OUT:
        yield f"Only {data.validation_examples:,} examples were held out, so the figures are rough."
    for count, what in (
        (data.overlap, "also training examples"),
        (data.shared_prompts, "of a prompt that is in the training data too"),
        (data.near_duplicates, "nearly equal to a training example"),
    ):
        if count:
            yield f"{count:,} of the held-out examples are {what}, so the figures are too good."
    if data.truncated:
        yield f"{data.truncated:,} training examples were longer than the maximum length, and were cut."


def _of_figures(facts: CardFacts, evidence: Evidence) -> Iterator[str]:
    if facts.kind == "train" and "loss_after" in facts.metrics:
        among = evidence.training.evaluations if evidence.training is not None else 0
        if among > 1:
            best = f"the best of {among:,} evaluations"
            yield f"The rows of `loss_after` also chose the checkpoint, {best}, so the figure is a little too low."
    elif "loss_after" not in facts.metrics and not evidence.retention:
        yield "Its quality on held-out rows was not measured."


def _of_composition(evidence: Evidence) -> Iterator[str]:
    report = evidence.composition
    if report is None:
        return
    for parent in report.below_retention:
        yield f"It keeps less of {format_code(parent)} than was requested."
    for kept in report.retention:
        if kept.status == "unmeasured":
            yield f"What it keeps of {format_code(kept.parent)} was not measured, since there are no held-out rows."
        elif kept.status == "undefined":
            yield f"{format_code(kept.parent)} gained too little to say which share of it is kept."
    if report.rows == "selection":
        yield "The rows of the retention also chose the composition, so the figures are a little too good."
