"""Invented evidence of trainings and compositions of any size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from finch_hub.specs.evidence import Evidence, LossCurve
from finch_hub.specs.reports import (
    CompositionReport,
    ConflictReport,
    DataReport,
    Forgetting,
    PairConflict,
    ReadingReport,
    Retention,
    TokenMetrics,
    TrainingReport,
)

DATA = DataReport(
    examples=1200,
    validation_examples=120,
    tokens=250_000,
    label_tokens=81_000,
    length_mean=208.3,
    length_max=2048,
    length_p95=702,
    truncated=12,
    left_out=3,
    duplicates=40,
    overlap=2,
    shared_prompts=5,
    near_duplicates=7,
    reading=ReadingReport(rows=1340, left_out=17, without_weight=2),
)
HOSTILE = "<script>alert(1)</script>\"'&</title></svg><img src=x onerror=alert(2)>\u202e\x1b[31m"
"""A text of a stranger that would run in a page, leave its place, or turn the text around."""


def make_curve(points: int, evaluations: int) -> LossCurve:
    """Return a falling curve that wavers."""
    rows = [(n + 1, 1.1 + 2.9 / (n + 1) ** 0.5 + 0.1 * math.sin(n * n), 1e-4) for n in range(points)]
    steps = [round(n * points / max(evaluations - 1, 1)) for n in range(evaluations)]
    return LossCurve.of_points(rows, [(step, 1.3 + 2.7 / (step + 1) ** 0.5, 0.4) for step in steps])


def make_training(curve: LossCurve | None) -> Evidence:
    """Return the evidence of a training with this curve."""
    report = TrainingReport(
        steps=450,
        epochs=3,
        tokens=750_000,
        seconds=61.5,
        train_loss=1.4,
        before=TokenMetrics(loss=2.9, accuracy=0.41, tokens=9000, examples=120),
        after=TokenMetrics(loss=1.6, accuracy=0.63, tokens=9000, examples=120),
        best_step=400,
        evaluations=9,
        trainable_parameters=1_000_000,
        total_parameters=135_000_000,
        data=DATA,
        forgetting=Forgetting(before=0.0, after=0.12, tokens=812, prompts=1),
    )
    return Evidence.of_training(report, curve)


def make_composition(parents: Sequence[str], *, layers: int, is_probed: bool = True) -> Evidence:
    """Return the evidence of a composition whose conflicts grow with the layers.

    Of several parents, the last one was not measured, and the one before gained too little.
    """
    modules = []
    for number, (first, second) in enumerate(itertools.combinations(parents, 2)):
        for layer in range(layers):
            share = (layer + 1) / layers * (0.4 + 0.6 * abs(math.sin(number + layer)))
            conflict = PairConflict(
                module=f"model.layers.{layer}.self_attn.q_proj",
                first=first,
                second=second,
                output_overlap=share,
                input_overlap=share,
                cosine=share,
                sign_conflict=share / 2,
                norm_ratio=0.9,
                interference=1.4 * share if is_probed else None,
            )
            modules.append(conflict)
    retention = [
        Retention(
            parent=parent,
            status="measured",
            base=2.5,
            own=1.5,
            linear=2.0,
            composed=1.5 + 0.1 * (number % 9),
            retention=1 - 0.1 * (number % 9),
            examples=40,
        )
        for number, parent in enumerate(parents)
    ]
    if len(retention) > 2:
        retention[-2] = retention[-2].evolve(status="undefined", retention=None)
        retention[-1] = Retention(parent=parents[-1], status="unmeasured")
    report = CompositionReport(
        strategy="ties",
        scale=1.0,
        rank=16,
        rows="report",
        evaluations=12,
        conflicts=ConflictReport(parents=tuple(parents), modules=tuple(modules)),
        retention=tuple(retention),
        forgetting=Forgetting(before=0.3, after=0.9, tokens=812, prompts=1),
        advice=("train the parents with a shared initialization",),
    )
    return Evidence.of_composition(report)
