"""SVG of charts: alone, in a page beside others, and without the extra."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET

import pytest
from support.evidence import HOSTILE, make_composition, make_curve
from support.pictures import SVG, check_picture

from finch_hub import errors
from finch_hub.display.charts.chart import Chart
from finch_hub.display.charts.conflicts import chart_conflicts
from finch_hub.display.charts.loss_curve import chart_losses
from finch_hub.formats.picture_colors import DARK


def loss() -> Chart:
    chart = chart_losses(make_curve(20, 4))
    assert chart is not None
    return chart


def test_picture_has_neither_script_nor_address() -> None:
    drawn = loss().draw_svg()
    root = check_picture(drawn)
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "title", "desc", "style", "g", "path", "rect", "line", "text")
    }
    assert not any(name.startswith("on") or "href" in name for element in root.iter() for name in element.attrib)
    assert re.findall(r"https?://[^\s\"']+", drawn) == ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"]


def test_picture_tells_what_it_shows() -> None:
    root = ET.fromstring(loss().draw_svg())
    assert root.findtext(f"{SVG}title") == "Loss by step"
    assert "held-out loss from" in (root.findtext(f"{SVG}desc") or "")


def test_each_color_of_a_picture_has_one_for_dark_pages() -> None:
    root = ET.fromstring(loss().draw_svg())
    style = root.findtext(f"{SVG}style") or ""
    colors = {
        element.get(part) for element in root.iter() for part in ("fill", "stroke")
    } - {None, "none", "transparent", "black"}  # fmt: skip
    assert colors <= DARK.keys()
    for color in colors:
        assert f'[fill="{color}"]{{fill:{DARK[str(color)]}}}' in style
    assert style.startswith("@media screen and (prefers-color-scheme:dark)")


def test_ids_of_two_pictures_of_a_page_differ() -> None:
    other = chart_conflicts(make_composition(["a/1", "b/1"], layers=3))
    assert other is not None
    ids = [set(re.findall(r'\bid="([^"]+)"', chart.draw_svg())) for chart in (loss(), other)]
    assert not ids[0] & ids[1]


def test_hostile_description_is_text() -> None:
    chart = loss()
    hostile = Chart(
        name="loss",
        title=HOSTILE,
        description=HOSTILE,
        specification=chart.specification | {"title": {"text": HOSTILE, "subtitle": HOSTILE}},
        columns=chart.columns,
        rows=chart.rows,
    )
    drawn = hostile.draw_svg()
    assert "<script" not in drawn
    assert "<img" not in drawn


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(errors.InvalidInput, match=r"needs vl-convert-python \(pip install 'finch-hub\[report\]'\)"):
        loss().draw_svg()


def test_notebook_shows_the_picture() -> None:
    assert loss()._repr_html_().startswith("<svg")
