"""Drawings for notebooks: inert HTML in colors that can be read on light and on dark pages."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from finch_hub import JobState, SweepReport
from finch_hub.display import notebook_drawings
from finch_hub.display.tables import draw_table
from finch_hub.formats.picture_colors import measure_contrast
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.sweeps import SweepPoint

HOSTILE = "<script>alert(1)</script>\x1b[31m"
CURVE = LossCurve.of_points([(1, 2.0, 1e-3), (2, 1.0, 1e-3)], [(0, 2.5, 0.1), (2, 1.5, 0.4)])


def make_sweep(reason: str) -> SweepReport:
    point = SweepPoint(number=1, settings={"rank": 4}, job="a", state=JobState.FAILED, reason=reason)
    return SweepReport(id="s", adapter="birds", points=(point, point.evolve(number=2)))


def test_reports_are_drawn_as_commands_draw_them_with_inert_texts() -> None:
    shown = make_sweep(HOSTILE)._repr_html_()
    root = ET.fromstring(f"<div>{shown}</div>")
    assert {element.tag for element in root.iter()} == {"div", "pre", "span"}
    text = "".join(root.itertext())
    assert text.startswith("SweepReport")
    assert {"tex2jax_ignore", "mathjax_ignore"} <= set(str(root[0].get("class")).split()), "dollar signs are no formula"
    assert "Sweep s of birds" in text
    assert "<script>alert(1)" in text
    assert "\x1b" not in text


def test_values_without_a_drawing_are_tables() -> None:
    point = make_sweep("").points[0]
    assert notebook_drawings.draw_html(point) is None
    assert '<table class="tex2jax_ignore mathjax_ignore"' in point._repr_html_()
    assert notebook_drawings.draw_html(LossCurve()) is None
    assert "<table" in LossCurve()._repr_html_()


def test_a_curve_is_drawn_in_the_colors_of_the_page() -> None:
    root = ET.fromstring(CURVE._repr_html_())
    colors = {element.get(name) for element in root.iter() for name in ("fill", "stroke")}
    assert "currentColor" in colors
    for color in colors - {None, "none", "currentColor", "#80808060"}:
        assert color is not None
        assert min(measure_contrast(color, page) for page in ("#ffffff", "#111111")) >= 3.0


@pytest.mark.parametrize("color", [notebook_drawings._RED, notebook_drawings._GREEN])
def test_texts_in_color_can_be_read_on_any_page(color: tuple[int, int, int]) -> None:
    written = "#" + bytes(color).hex()
    assert min(measure_contrast(written, page) for page in ("#ffffff", "#111111")) >= 4.0


def test_lines_have_no_colors_although_a_kernel_says_it_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = draw_table(("pair", "cosine"), [("a + b", 0.5)], title="Conflicts")
    lines = notebook_drawings.write_plainly(table)
    assert lines[0].strip() == "Conflicts"
    assert not any("\x1b" in line for line in lines)
    assert notebook_drawings.write_plainly("x" * 300) == ["x" * 300]
