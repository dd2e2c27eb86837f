"""What all charts have in common: short names, and specifications that stand alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.evidence import DATA, HOSTILE, make_composition, make_curve

from finch_hub.display.charts.chart import MAX_LABEL, Chart, format_figure, is_drawable, label_names
from finch_hub.display.charts.conflicts import chart_conflicts
from finch_hub.display.charts.data import chart_left_out, chart_lengths
from finch_hub.display.charts.drift import chart_drift
from finch_hub.display.charts.loss_curve import chart_losses
from finch_hub.display.charts.retention import chart_retention
from finch_hub.specs.reports import Forgetting

COMPOSED = make_composition(["a/1", "b/1"], layers=3)
ALL = [
    chart_losses(make_curve(80, 5)),
    chart_retention(COMPOSED.retention),
    chart_conflicts(COMPOSED),
    chart_lengths(DATA),
    chart_left_out(DATA),
    chart_drift(Forgetting(before=0.0, after=0.1, tokens=9, prompts=1), before="the base"),
]


def _walk(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield name, part
            yield from _walk(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _walk(part)


@pytest.mark.parametrize("chart", ALL)
def test_specification_is_json_with_all_data_and_without_code(chart: Chart) -> None:
    specification = json.loads(json.dumps(chart.specification, allow_nan=False))
    names = {name for name, _ in _walk(specification)}
    assert not names & {"url", "transform", "expr", "signal", "params", "href", "labelExpr", "tooltip"}
    assert {"$schema", "description", "title"} <= specification.keys()
    assert chart.description
    assert chart.rows


def test_long_names_stay_apart() -> None:
    names = [f"{'x' * 60}{n}{'y' * 60}" for n in range(40)]
    labels = label_names([*names, "short/1", names[0]])
    assert len(set(labels[:-1])) == 41
    assert labels[-1] == labels[0]
    assert labels[-2] == "short/1"
    assert max(map(len, labels)) <= MAX_LABEL + 1


def test_hostile_name_is_one_visible_line() -> None:
    label, _ = label_names([HOSTILE, f"a\n{HOSTILE}"])
    assert "\u202e" not in label
    assert label.isprintable()


def test_figures_are_short() -> None:
    assert [format_figure(value) for value in (1.23456, 1234.5, 1e7, None, float("nan"))] == [
        "1.235", "1,234.500", "1.00e+07", "-", "not finite",
    ]  # fmt: skip
    assert [is_drawable(value) for value in (1.0, None, float("inf"), 1e301)] == [True, False, False, False]
