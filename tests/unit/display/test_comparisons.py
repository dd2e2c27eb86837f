"""Comparisons as tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from finch_hub.display import comparisons
from finch_hub.specs.comparisons import ComparedModule, ComparedValue, Comparison, MetricPoint, explain_other_data

from .conftest import Drawn

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_comparison_has_a_column_for_each_version(drawn: Drawn) -> None:
    values = (ComparedValue(section="settings", name="lora.rank", values=(8, 16, None)),)
    modules = (
        ComparedModule(module="", norms=(1.0, 2.0, None), cosines=(None, 0.5, None)),
        ComparedModule(
            module="layers.0.q_proj",
            norms=(1.0, 2.0, None),
            cosines=(None, 0.25, None),
            output_overlaps=(None, 0.75, None),
            input_overlaps=(None, 1.0, None),
        ),
    )
    found = Comparison(
        versions=("a/1", "b/1", "c/2"), values=values, equal=3, modules=modules, remarks=("c/2 has no files",)
    )
    lines = [" ".join(line.split()) for line in drawn(comparisons.draw_comparison(found)).splitlines()]
    assert "settings lora.rank 8 16 -" in lines
    assert "3 values are equal. Show them with --show-equal." in lines
    assert any(line.startswith("all modules 1.000 2.000 - 0.50") for line in lines)
    assert any(line.startswith("layers.0.q_proj 1.000 2.000 - 0.25 0.75 1.00") for line in lines)
    assert "c/2 has no files" in lines


def test_equal_versions_say_so(drawn: Drawn) -> None:
    assert "No value differs." in drawn(comparisons.draw_comparison(Comparison(versions=("a/1", "a/1"))))


def test_metric_has_bars_if_it_is_a_number(drawn: Drawn) -> None:
    points = [
        MetricPoint(version=f"a/{number}", value=value, state="ready", created_at=NOW)
        for number, value in enumerate((3.0, None, 1.0), start=1)
    ]
    text = drawn(comparisons.draw_metric("loss", points))
    assert "█▁" in text
    words = [point.evolve(value="int8") for point in points]
    assert "▁" not in drawn(comparisons.draw_metric("scheme", words))


@pytest.mark.parametrize(
    ("metric", "data", "is_told"), [("loss_after", "ab", True), ("loss_after", "aa", False), ("rank", "ab", False)]
)
def test_losses_on_other_held_out_data_are_told(drawn: Drawn, metric: str, data: str, is_told: bool) -> None:
    points = [
        MetricPoint(version=f"a/{number}", value=1.0, state="ready", created_at=NOW, held_out=letter * 64)
        for number, letter in enumerate(data, start=1)
    ]
    text = drawn(comparisons.draw_metric(metric, points))
    assert data[0] * 12 in text
    assert (explain_other_data(["a/1", "a/2"]) in " ".join(text.split())) is is_told
    assert ("█" in text or "▁" in text) is not is_told
