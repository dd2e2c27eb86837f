"""Evidence of a version: what was measured when it was made, without a text of the rows that it was made of."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pydantic

from finch_hub import errors
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.reports import (
    CompositionReport,
    DataReport,
    Disagreement,
    Forgetting,
    PairConflict,
    QuantizationReport,
    ReadingReport,
    Retention,
    TokenMetrics,
    TrainingReport,
)
from finch_hub.specs.value import JsonObject, Value

MAX_POINTS = 240
"""Points of a loss curve, and as many evaluations."""
MAX_CONFLICTS = 256
"""Module conflicts, layers and pairs of a composition's evidence, each."""

_MEASURES = ("output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio")
_LAYER = re.compile(r"\.(\d+)(?:\.|$)")

SamplesState = Literal["none", "stored", "purged"]
"""Whether a version has sample answers. They are purged with the data that they quote."""
Absence = Literal["not recorded", "pruned", "purged", "unreadable"]
"""Why there is no evidence: nobody recorded any, or its job or the version is gone, or nobody can read it."""


class LossCurve(Value):
    """Losses of a training by step, in columns of equal length.

    Attributes:
        steps: steps of `train_loss` and `learning_rate`.
        train_loss: average over about the last ten steps.
        evaluated_steps: steps of `held_out_loss` and `held_out_accuracy`.
    """

    steps: tuple[int, ...] = ()
    train_loss: tuple[float, ...] = ()
    learning_rate: tuple[float, ...] = ()
    evaluated_steps: tuple[int, ...] = ()
    held_out_loss: tuple[float, ...] = ()
    held_out_accuracy: tuple[float, ...] = ()

    @pydantic.model_validator(mode="after")
    def _is_even(self) -> LossCurve:
        steps = {len(self.steps), len(self.train_loss), len(self.learning_rate)}
        evaluations = {len(self.evaluated_steps), len(self.held_out_loss), len(self.held_out_accuracy)}
        if len(steps) != 1 or len(evaluations) != 1:
            raise ValueError("the columns have different lengths")
        return self

    @classmethod
    def of_points(
        cls, points: Iterable[tuple[int, float, float]], evaluations: Iterable[tuple[int, float, float]]
    ) -> LossCurve:
        """Return the curve of (step, train loss, learning rate) and (step, held-out loss, accuracy)."""
        steps, train_loss, learning_rate = _columns(points)
        evaluated_steps, held_out_loss, held_out_accuracy = _columns(evaluations)
        return cls(
            steps=steps,
            train_loss=train_loss,
            learning_rate=learning_rate,
            evaluated_steps=evaluated_steps,
            held_out_loss=held_out_loss,
            held_out_accuracy=held_out_accuracy,
        )

    @property
    def points(self) -> list[tuple[int, float, float]]:
        """Step, train loss and learning rate of each point."""
        return list(zip(self.steps, self.train_loss, self.learning_rate, strict=True))

    @property
    def evaluations(self) -> list[tuple[int, float, float]]:
        """Step, held-out loss and accuracy of each evaluation."""
        return list(zip(self.evaluated_steps, self.held_out_loss, self.held_out_accuracy, strict=True))

    def to_columns(self) -> dict[str, list[float | None]]:
        """Return the curve as columns of equal length, with a row for each step and None for what was not measured.

        `pandas.DataFrame(curve.to_columns())` is a table of it.
        """
        trained = {step: figures for step, *figures in self.points}
        evaluated = {step: figures for step, *figures in self.evaluations}
        columns: dict[str, list[float | None]] = {
            name: [] for name in ("step", "train_loss", "learning_rate", "held_out_loss", "held_out_accuracy")
        }
        for step in sorted({*trained, *evaluated}):
            row = (step, *trained.get(step, (None, None)), *evaluated.get(step, (None, None)))
            for column, figure in zip(columns.values(), row, strict=True):
                column.append(figure)
        return columns

    def thinned(self) -> LossCurve:
        """Return the curve with a bounded number of points, rounded to six digits.

        The first and the last point stay, and the first, the last and the best evaluation.
        """
        points = thin(self.points)
        evaluations = self.evaluations
        if len(evaluations) > MAX_POINTS:
            best = min(evaluations, key=lambda evaluation: evaluation[1])
            evaluations = sorted({*_pick(evaluations, MAX_POINTS - 1), best})
        return LossCurve.of_points(map(_round, points), map(_round, evaluations))


def thin(points: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """Return the first and the last point, and those whose step is a multiple of the smallest power of two.

    Points that were thinned before and those behind them then have equal distances.
    """
    kept, stride = list(points), 1
    while len(kept) > MAX_POINTS:
        stride *= 2
        middle = [point for point in points[1:-1] if point[0] % stride == 0]
        kept = [points[0], *middle, points[-1]]
    return kept


class LayerConflict(Disagreement):
    """Disagreement in all modules of a layer, as the mean over modules and pairs, with the largest interference.

    Attributes:
        layer: number of the layer in the model; None for modules outside of layers.
        conflicts: number of module conflicts in the mean.
        worst: module with the largest conflict.
    """

    layer: int | None
    conflicts: int
    worst: str


class Evidence(Value):
    """What was measured when a version was made, and what its bytes depend on. It outlives the job.

    No text of a row is in it. Reports that do not belong to the kind of the version are None.

    Attributes:
        adapter: reference of the version.
        curve: losses of the training, with at most 240 points.
        training: report of the training, without the losses of single examples.
        composition: report of the composition. Of its conflicts by module, the 256 worst are kept.
        layers: conflicts by layer, of all modules.
        module_conflicts: number of conflicts by module, before the mildest were left out.
        notes: what an import changed.
        environment: machine and libraries that the bytes depend on.
        samples: whether there are sample answers.
        absence: why there is no evidence; None if there is some.
    """

    adapter: str = ""
    kind: str
    curve: LossCurve | None = None
    training: TrainingReport | None = None
    composition: CompositionReport | None = None
    layers: tuple[LayerConflict, ...] = ()
    module_conflicts: int = 0
    quantization: QuantizationReport | None = None
    notes: tuple[str, ...] = ()
    environment: JsonObject = pydantic.Field(default_factory=dict)
    samples: SamplesState = "none"
    absence: Absence | None = None

    @classmethod
    def of_training(cls, report: TrainingReport, curve: LossCurve | None) -> Evidence:
        """Return the evidence of a training."""
        public = report.evolve(
            before=_without_examples(report.before),
            after=_without_examples(report.after),
            data=_without_texts(report.data),
            environment={},
        )
        has_points = curve is not None and (curve.steps or curve.evaluated_steps)
        return cls(kind="train", training=public, curve=curve.thinned() if curve is not None and has_points else None)

    @classmethod
    def of_composition(cls, report: CompositionReport) -> Evidence:
        """Return the evidence of a composition. It is bounded for models with any number of modules."""
        conflicts = report.conflicts
        worst = sorted(conflicts.modules, key=lambda conflict: conflict.severity, reverse=True)[:MAX_CONFLICTS]
        pairs = sorted(conflicts.pairs, key=lambda conflict: conflict.severity, reverse=True)[:MAX_CONFLICTS]
        bounded = conflicts.evolve(modules=tuple(worst), pairs=tuple(pairs))
        return cls(
            kind="compose",
            composition=report.evolve(conflicts=bounded),
            layers=summarize_layers(conflicts.modules),
            module_conflicts=len(conflicts.modules),
        )

    @classmethod
    def of_quantization(cls, report: QuantizationReport) -> Evidence:
        """Return the evidence of a quantization."""
        public = report.evolve(before=_without_examples(report.before), after=_without_examples(report.after))
        return cls(kind="quantize", quantization=public)

    @classmethod
    def of_report(cls, kind: str, report: object, curve: LossCurve | None = None) -> Evidence | None:
        """Return the evidence of a stored report, None if the kind has none or this version cannot read it."""
        try:
            if kind == "train":
                return cls.of_training(TrainingReport.of_stored(report), curve)
            if kind == "compose":
                return cls.of_composition(CompositionReport.of_stored(report))
            return cls.of_quantization(QuantizationReport.of_stored(report)) if kind == "quantize" else None
        except errors.InvalidSpec:
            return None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known, as of versions whose job was pruned before evidence was kept."""
        return not (self.training or self.composition or self.quantization or self.notes)

    @property
    def data(self) -> DataReport | None:
        """Statistics of the training data."""
        return self.training.data if self.training else None

    @property
    def forgetting(self) -> Forgetting | None:
        """Distance from the base on general prompts."""
        report = self.training or self.composition
        return report.forgetting if report else None

    @property
    def retention(self) -> tuple[Retention, ...]:
        """What a composition kept of each parent."""
        return self.composition.retention if self.composition else ()

    def name_parents(self, names: Sequence[str]) -> Evidence:
        """Return the evidence of a composition with other references of its parents, in their order.

        It was written with those that the parents had when they were composed.
        """
        known = self.composition.conflicts.parents if self.composition is not None else ()
        if self.composition is None or len(known) != len(names) or known == tuple(names):
            return self
        named = dict(zip(known, names, strict=True))
        reference = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, named))})(?![\w/-]|\.\w)")
        renamed = _map_texts(self.composition.model_dump(), lambda text: reference.sub(lambda old: named[old[0]], text))
        return self.evolve(composition=CompositionReport.of(renamed))

    def to_document(self) -> JsonObject:
        """Return the part that is stored with the version, as JSON. The rest is in columns of their own."""
        known_elsewhere = {"adapter", "environment", "samples", "absence"}
        return self.model_dump(mode="json", exclude=known_elsewhere, exclude_defaults=True) | {"kind": self.kind}


def summarize_layers(modules: Sequence[PairConflict]) -> tuple[LayerConflict, ...]:
    """Average the conflicts of each layer. Of very many layers, the worst are returned, in their order."""
    by_layer: dict[int | None, list[PairConflict]] = defaultdict(list)
    for conflict in modules:
        found = _LAYER.search(conflict.module)
        by_layer[int(found[1]) if found else None].append(conflict)
    layers = [_summarize_layer(layer, conflicts) for layer, conflicts in by_layer.items()]
    worst = sorted(layers, key=lambda conflict: conflict.severity, reverse=True)[:MAX_CONFLICTS]
    return tuple(sorted(worst, key=lambda layer: math.inf if layer.layer is None else layer.layer))


def _summarize_layer(layer: int | None, conflicts: Sequence[PairConflict]) -> LayerConflict:
    worst = max(conflicts, key=lambda conflict: conflict.severity)
    known = [conflict.interference for conflict in conflicts if conflict.interference is not None]
    means = {name: sum(getattr(conflict, name) for conflict in conflicts) / len(conflicts) for name in _MEASURES}
    return LayerConflict(
        layer=layer, conflicts=len(conflicts), worst=worst.module, interference=max(known, default=None), **means
    )


class Sample(Value):
    """A prompt of the validation data, its expected answer, and the answers before and after the training."""

    prompt: str
    expected: str
    before: str
    after: str
    is_cut: bool = False


class Samples(Value):
    """Sample answers of a version.

    Attributes:
        max_tokens: number of tokens to which each answer was cut.
        start: version that the training went on from, which gave the answers before; None if the base did. It has the
            name that it had then, in the hub of the training.
    """

    samples: tuple[Sample, ...]
    max_tokens: int
    start: str | None = None

    @pydantic.field_validator("start")
    @classmethod
    def _check_start(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(AdapterReference.parse(value))
        except errors.InvalidReference:
            raise ValueError("is not the reference of a version") from None

    def to_stored(self) -> bytes:
        """Return the bytes that are stored. A text is in them only if `Samples` has it, so that purges find it."""
        return self.model_dump_json(exclude_none=True).encode()


def curve_of_events(events: Iterable[tuple[str, Mapping[str, Any]]]) -> LossCurve:
    """Return the curve that the events of a job tell, given as types and data in their order.

    A resumed attempt repeats some steps. Its events replace those of the lost attempt.
    """
    points: list[tuple[int, float, float]] = []
    evaluations: list[tuple[int, float, float]] = []
    for kind, data in events:
        if kind == "progress" and data.get("unit") is None:
            _append(points, data, "loss", "learning_rate")
        elif kind == "metrics":
            _append(evaluations, data, "valid_loss", "valid_accuracy")
    return LossCurve.of_points(points, evaluations)


def _map_texts(value: object, change: Callable[[str], str]) -> Any:
    """Return JSON values in which each text is changed, but no name of a field."""
    if isinstance(value, dict):
        return {name: _map_texts(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def _append(rows: list[tuple[int, float, float]], data: Mapping[str, Any], first: str, second: str) -> None:
    step, values = data.get("step"), (data.get(first), data.get(second))
    if not isinstance(step, int) or not all(isinstance(value, int | float) for value in values):
        return
    while rows and rows[-1][0] >= step:
        rows.pop()
    rows.append((step, float(values[0] or 0), float(values[1] or 0)))


def _columns(rows: Iterable[tuple[int, float, float]]) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    first, second, third = zip(*listed, strict=True) if (listed := list(rows)) else ((), (), ())
    return first, second, third


def _pick(rows: Sequence[tuple[int, float, float]], count: int) -> list[tuple[int, float, float]]:
    """Return so many rows at equal distances, with the first and the last."""
    return [rows[round(place * (len(rows) - 1) / (count - 1))] for place in range(count)]


def _round(row: tuple[int, float, float]) -> tuple[int, float, float]:
    return row[0], float(f"{row[1]:.6g}"), float(f"{row[2]:.6g}")


def _without_examples(metrics: TokenMetrics | None) -> TokenMetrics | None:
    return metrics and metrics.evolve(example_losses=())


def _without_texts(report: DataReport) -> DataReport:
    """Return the report without texts that can quote rows: problems, and names of columns."""
    reading = report.reading
    if reading is not None:
        numbers = {name: getattr(reading, name) for name in ("rows", "left_out", "without_weight", "formats")}
        reading = ReadingReport(**numbers)
    return report.evolve(problems=(), reading=reading)
