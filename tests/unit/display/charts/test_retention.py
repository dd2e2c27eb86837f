"""The retention matrix."""

from __future__ import annotations

import pytest
from support.evidence import HOSTILE, make_composition
from support.pictures import check_picture, list_texts

from finch_hub.display.charts.retention import chart_retention
from finch_hub.specs.reports import Retention


@pytest.mark.parametrize("parents", [["a/1", "b/2"], [f"team-{n}-with-a-very-long-name-indeed/{n}" for n in range(32)]])
def test_matrix_has_a_row_for_each_parent(parents: list[str]) -> None:
    chart = chart_retention(make_composition(parents, layers=2).retention)
    assert chart is not None
    texts = list_texts(check_picture(chart.draw_svg()))
    assert sum(text.startswith("rows of ") for text in texts) == len(parents)
    assert {"base", "parent alone", "plain linear", "composition", "100% (1.500)"} <= set(texts)
    assert [row[0] for row in chart.rows] == parents


def test_parents_without_a_share_have_no_color() -> None:
    chart = chart_retention(make_composition(["a/1", "b/1", "c/1"], layers=2).retention)
    assert chart is not None
    cells = chart.specification["data"]["values"]
    assert [cell["text"] for cell in cells if cell["row"] == "rows of c/1"] == ["not measured"] * 4
    assert {cell["color"] for cell in cells if cell["row"] != "rows of a/1"} == {"none"}
    assert "gained too little" in chart.note


def test_share_beyond_the_scale_is_told() -> None:
    kept = Retention(parent="a/1", status="measured", base=2.0, own=1.0, composed=2.5, retention=-0.5, examples=9)
    chart = chart_retention([kept])
    assert chart is not None
    assert "-50% (2.500)" in list_texts(check_picture(chart.draw_svg()))
    assert "plain linear" not in chart.columns


def test_nothing_measured_has_no_matrix() -> None:
    assert chart_retention([]) is None
    assert chart_retention([Retention(parent="a/1", status="unmeasured")]) is None


def test_hostile_name_is_text() -> None:
    chart = chart_retention([Retention(parent=HOSTILE, status="measured", base=2, own=1, composed=1, retention=1)])
    assert chart is not None
    svg = chart.draw_svg()
    check_picture(svg)
    assert "<script" not in svg
    assert "<img" not in svg
    assert "\u202e" not in svg
