"""The heat map of conflicts."""

from __future__ import annotations

import pytest
from support.evidence import make_composition
from support.pictures import check_picture, list_texts

from finch_hub.display.charts.conflicts import chart_conflicts
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.reports import CompositionReport, ConflictReport, PairConflict

MEASURES = {"output_overlap": 0.5, "input_overlap": 0.5, "cosine": 0.1, "norm_ratio": 0.9}


def conflict(module: str, sign_conflict: float, interference: float | None = None) -> PairConflict:
    return PairConflict(
        module=module, first="a/1", second="b/1", sign_conflict=sign_conflict, interference=interference, **MEASURES
    )


def compose(*modules: PairConflict) -> Evidence:
    conflicts = ConflictReport(parents=("a/1", "b/1"), modules=modules)
    return Evidence.of_composition(CompositionReport(strategy="ties", scale=1, rank=8, conflicts=conflicts))


@pytest.mark.parametrize(("parents", "layers"), [(2, 1), (2, 16), (3, 80), (32, 4)])
def test_map_has_a_row_for_each_pair_and_a_column_for_each_layer(parents: int, layers: int) -> None:
    names = [f"a-long-name-of-an-adapter-{n}/1" for n in range(parents)]
    chart = chart_conflicts(make_composition(names, layers=layers))
    assert chart is not None
    texts = list_texts(check_picture(chart.draw_svg()))
    pairs = min(parents * (parents - 1) // 2, 24)
    assert sum(" + " in text for text in texts) == pairs
    cells = chart.specification["data"]["values"]
    assert len({cell["row"] for cell in cells}) == pairs
    assert len({cell["column"] for cell in cells}) == layers
    has_numbers = any(cell["text"] in texts for cell in cells)
    assert has_numbers == (layers <= 16)


def test_cell_is_the_worst_module_of_a_layer() -> None:
    chart = chart_conflicts(
        compose(
            conflict("m.layers.2.q_proj", 0.3),
            conflict("m.layers.2.v_proj", 0.7),
            conflict("m.layers.0.q_proj", 0.1),
            conflict("lm_head", 0.2),
        )
    )
    assert chart is not None
    cells = {cell["column"]: cell["text"] for cell in chart.specification["data"]["values"]}
    assert cells == {"0": "0.10", "1": "", "2": "0.70", "other": "0.20"}
    assert chart.rows[0] == ("a/1", "b/1", "2", "0.70", "m.layers.2.v_proj")
    assert "opposite signs" in chart.description


def test_interference_is_shown_where_it_was_measured() -> None:
    chart = chart_conflicts(compose(conflict("m.layers.0.q_proj", 0.3, 2.5), conflict("m.layers.1.q_proj", 0.9, 0.1)))
    assert chart is not None
    assert chart.rows[0][3] == "2.50"
    assert "2.50 (dark)" in chart.specification["title"]["subtitle"]


def test_note_tells_what_is_not_in_the_picture() -> None:
    chart = chart_conflicts(make_composition([f"a{n}/1" for n in range(20)], layers=8))
    assert chart is not None
    assert "24 of " in chart.note
    assert "only the worst 256" in chart.note


def test_number_that_is_none_of_a_layer_makes_no_columns() -> None:
    chart = chart_conflicts(compose(conflict("experts.100000.w1", 0.3)))
    assert chart is not None
    assert len(chart.specification["data"]["values"]) == 1


def test_no_conflicts_have_no_map() -> None:
    assert chart_conflicts(compose()) is None
    assert chart_conflicts(Evidence(kind="import")) is None
