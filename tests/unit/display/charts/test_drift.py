"""Drift from the base."""

from __future__ import annotations

import pytest
from support.pictures import check_picture, list_texts

from finch_hub.display.charts.drift import chart_drift
from finch_hub.specs.reports import Forgetting


@pytest.mark.parametrize("after", [0.0, 1e-9, 0.12, 0.9, 700.0])
def test_drift_has_both_figures_and_the_limit(after: float) -> None:
    chart = chart_drift(Forgetting(before=0.0, after=after, tokens=812, prompts=1), before="the base")
    texts = list_texts(check_picture(chart.draw_svg()))
    assert {"the base", "this version", "other abilities may be lost", f"{after:.3g}"} <= set(texts)
    assert chart.rows == (("the base", "0"), ("this version", f"{after:.3g}"))
