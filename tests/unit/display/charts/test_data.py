"""Lengths of the data, and what was left out."""

from __future__ import annotations

from support.evidence import DATA
from support.pictures import check_picture, list_texts

from finch_hub.display.charts.data import chart_left_out, chart_lengths
from finch_hub.specs.reports import DataReport

CLEAN = DataReport(examples=3, tokens=30, label_tokens=9, length_mean=10, length_max=12, length_p95=12)


def test_lengths_have_their_tokens() -> None:
    chart = chart_lengths(DATA)
    assert chart is not None
    assert {"208", "702", "2,048"} <= set(list_texts(check_picture(chart.draw_svg())))
    assert chart.rows[-1] == ("longest", "2,048")


def test_left_out_rows_have_their_share() -> None:
    chart = chart_left_out(DATA)
    assert chart is not None
    texts = set(list_texts(check_picture(chart.draw_svg())))
    assert {"could not be read", "17 (1.3%)", "have the weight 0", "repeated examples", "40 (3.0%)"} <= texts
    assert len(chart.rows) == 8


def test_nothing_left_out_has_no_picture() -> None:
    assert chart_left_out(CLEAN) is None
    assert chart_left_out(CLEAN.evolve(left_out=1)) is not None


def test_lengths_of_any_size_are_drawn() -> None:
    for data in (CLEAN, CLEAN.evolve(length_mean=5e8, length_p95=10**9, length_max=10**12, tokens=10**15)):
        chart = chart_lengths(data)
        assert chart is not None
        check_picture(chart.draw_svg())
    assert chart_lengths(CLEAN.evolve(examples=0, tokens=0, label_tokens=0)) is None
