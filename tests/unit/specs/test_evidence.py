from __future__ import annotations

from typing import Any

import pytest

from finch_hub import errors
from finch_hub.specs.evidence import MAX_CONFLICTS, MAX_POINTS, Evidence, LossCurve, curve_of_events, summarize_layers
from finch_hub.specs.reports import (
    CompositionReport,
    ConflictReport,
    DataReport,
    PairConflict,
    ReadingReport,
    TokenMetrics,
    TrainingReport,
)

ROW = "Canary 7 eats seeds and buds."


def make_training(**fields: Any) -> TrainingReport:
    reading = ReadingReport(rows=9, left_out=1, problems=(ROW,), unused={ROW: 1}, ignored={ROW: 2}, recognized=(ROW,))
    data = DataReport(
        examples=8, tokens=80, label_tokens=40, length_mean=10.0, length_max=12, length_p95=12, problems=(ROW,),
        reading=reading,
    )  # fmt: skip
    metrics = TokenMetrics(loss=1.5, accuracy=0.5, tokens=40, examples=2, example_losses=(1.0, 2.0))
    required = {"steps": 6, "epochs": 2.0, "tokens": 160, "seconds": 3.0, "train_loss": 2.0}
    sizes = {"trainable_parameters": 10, "total_parameters": 100}
    return TrainingReport(**required, **sizes, data=data, before=metrics, after=metrics, environment={"threads": 1})


def conflict(module: str, sign_conflict: float, **fields: Any) -> PairConflict:
    measures = {"output_overlap": 0.5, "input_overlap": 0.5, "cosine": 0.1, "norm_ratio": 0.9}
    return PairConflict(module=module, first="a/1", second="b/1", sign_conflict=sign_conflict, **{**measures, **fields})


def test_evidence_of_a_training_has_no_text_of_a_row() -> None:
    evidence = Evidence.of_training(make_training(), LossCurve.of_points([(1, 2.0, 1e-4)], [(0, 3.0, 0.5)]))
    assert ROW not in evidence.model_dump_json()
    assert evidence.data is not None
    assert evidence.data.reading == ReadingReport(rows=9, left_out=1)
    assert evidence.training is not None
    assert evidence.training.after is not None
    assert (evidence.training.after.loss, evidence.training.after.example_losses) == (1.5, ())
    assert Evidence.of_stored(evidence.to_document()) == evidence


@pytest.mark.parametrize("count", [1, MAX_POINTS, MAX_POINTS + 1, 100_000])
def test_thinned_curve_is_bounded_and_keeps_its_ends_and_the_best_evaluation(count: int) -> None:
    points = [(step, 1 / step, 1e-4) for step in range(1, count + 1)]
    evaluations = [(step, 0.123456789 if step == count // 3 else 2.0, 0.5) for step in range(count)]
    thinned = LossCurve.of_points(points, evaluations).thinned()
    assert len(thinned.steps) <= MAX_POINTS
    assert len(thinned.evaluated_steps) <= MAX_POINTS
    assert (thinned.steps[0], thinned.steps[-1]) == (1, count)
    assert (thinned.evaluated_steps[0], thinned.evaluated_steps[-1]) == (0, count - 1)
    assert min(thinned.held_out_loss) == 0.123457
    assert len(thinned.steps) >= min(count, MAX_POINTS // 2)


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="the columns have different lengths"):
        LossCurve(steps=(1, 2), train_loss=(1.0,), learning_rate=(1.0,))


def test_curve_of_events_replaces_the_steps_that_a_resumed_attempt_repeats() -> None:
    def progress(step: int, loss: float | None, **more: Any) -> tuple[str, dict[str, Any]]:
        return "progress", {"step": step, "loss": loss, "learning_rate": 1e-4, **more}

    events = [
        progress(1, None, unit="reading rows"),
        ("metrics", {"step": 0, "valid_loss": 3.0, "valid_accuracy": 0.1}),
        progress(1, 2.0),
        progress(5, 1.5),
        progress(9, 1.2),
        ("metrics", {"step": 9, "valid_loss": 1.1, "valid_accuracy": 0.4}),
        progress(4, 1.6),  # of the attempt that continued after step 3
        progress(8, 1.3),
        ("metrics", {"step": 9, "valid_loss": 1.0, "valid_accuracy": 0.5}),
        ("metrics", {"samples": 3}),
    ]
    curve = curve_of_events(events)
    assert curve.points == [(1, 2.0, 1e-4), (4, 1.6, 1e-4), (8, 1.3, 1e-4)]
    assert curve.evaluations == [(0, 3.0, 0.1), (9, 1.0, 0.5)]


def test_conflicts_of_a_large_model_are_bounded_and_all_layers_are_summed_up() -> None:
    modules = [
        conflict(f"model.layers.{layer}.mlp.{name}", layer / 100 + place / 1000)
        for layer in range(80)
        for place, name in enumerate(("up_proj", "down_proj", "gate_proj", "q_proj", "k_proj"))
    ]
    conflicts = ConflictReport(parents=("a/1", "b/1"), modules=(conflict("lm_head", 0.01), *modules))
    report = CompositionReport(strategy="linear", scale=1.0, rank=4, conflicts=conflicts)
    evidence = Evidence.of_composition(report)
    assert evidence.composition is not None
    kept = evidence.composition.conflicts.modules
    assert (len(kept), evidence.module_conflicts) == (MAX_CONFLICTS, 401)
    assert kept[0].module == "model.layers.79.mlp.k_proj"
    assert [layer.layer for layer in evidence.layers] == [*range(80), None]
    assert evidence.layers[3].conflicts == 5
    assert evidence.layers[3].sign_conflict == pytest.approx(0.032)
    assert evidence.layers[3].worst == "model.layers.3.mlp.k_proj"


def test_interference_decides_how_serious_a_conflict_is() -> None:
    modules = [conflict("model.layers.0.q_proj", 0.9, interference=0.1), conflict("model.layers.0.k_proj", 0.1)]
    (layer,) = summarize_layers([modules[0], modules[1].evolve(interference=2.0)])
    assert (layer.worst, layer.interference, layer.severity) == ("model.layers.0.k_proj", 2.0, 2.0)


def test_report_that_this_version_cannot_read_is_no_evidence() -> None:
    assert Evidence.of_report("train", {"steps": "many"}) is None
    assert Evidence.of_report("import", {}) is None
    stored = make_training().model_dump(mode="json") | {"of_a_later_version": 1}
    found = Evidence.of_report("train", stored)
    assert found is not None
    assert found.training is not None
    assert (found.training.steps, found.is_empty, Evidence(kind="train").is_empty) == (6, False, True)
