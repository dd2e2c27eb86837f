from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET

import pytest

from finch_hub.artifacts.cards.loss_chart import describe_curve, draw_loss_chart
from finch_hub.specs.evidence import LossCurve

SVG = "{http://www.w3.org/2000/svg}"
CURVE = LossCurve.of_points([(n, 3 / n + 1, 1e-3) for n in range(1, 50)], [(10, 2.0, 0.5), (49, 1.4, 0.6)])


def test_chart_is_svg_of_lines_and_texts_alone() -> None:
    root = ET.fromstring(draw_loss_chart(CURVE) or "")
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "rect", "path", "text", "circle",
    }  # fmt: skip
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"training", "held out", "step", "49"} <= set(texts)
    assert len(root.findall(f"{SVG}circle")) == 2


def test_chart_of_a_curve_has_the_same_bytes_everywhere() -> None:
    drawn = draw_loss_chart(CURVE) or ""
    assert drawn == draw_loss_chart(LossCurve.of(CURVE.model_dump()))
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == "0756a8c05a484a65"


@pytest.mark.parametrize(
    ("points", "evaluations"),
    [
        ([(1, 2.0, 0.0), (2, 2.0, 0.0)], []),  # a level line
        ([(1, 0.0, 0.0), (2, 0.0, 0.0)], []),
        ([(1, 1e-7, 0.0), (2, 1e6, 0.0)], [(2, 1e9, 0.0)]),
        ([], [(0, 5.0, 0.0), (7, -1.0, 0.0)]),
        ([(1, 9e299, 0.0), (2, -9e299, 0.0)], []),
        ([(1, 1e308, 0.0), (2, -1e308, 0.0)], [(1, 2.0, 0.0), (2, 1.0, 0.0)]),
        ([(10**9, 1.0, 0.0), (10**9 + 1, 2.0, 0.0)], [(3, 1.5, 0.0)]),
    ],
)
def test_every_curve_lies_within_the_chart(
    points: list[tuple[int, float, float]], evaluations: list[tuple[int, float, float]]
) -> None:
    root = ET.fromstring(draw_loss_chart(LossCurve.of_points(points, evaluations)) or "")
    lines = [path for path in root.iter(f"{SVG}path") if path.get("stroke-linejoin")]
    assert lines
    for line in lines:
        for place in str(line.get("d"))[1:].split("L"):
            x, y = map(float, place.split())
            assert 64 <= x <= 704
            assert 40 <= y <= 312


def test_curve_without_two_points_has_no_chart() -> None:
    assert draw_loss_chart(LossCurve()) is None
    assert draw_loss_chart(LossCurve.of_points([(1, 2.0, 0.0)], [(1, 2.0, 0.0)])) is None


def test_description_has_the_ends_and_the_best_of_each_line() -> None:
    expected = "training loss from 4.000 to 1.061, at best 1.061 and held-out loss from 2.000 to 1.400, at best 1.400"
    assert describe_curve(CURVE) == f"{expected}, in 49 steps"


def test_chart_has_a_bounded_number_of_points() -> None:
    curve = LossCurve.of_points([(0, 2.0, 0.0)] * 100_000, [(n, 2.0 + n, 0.0) for n in range(100_000)])
    assert len(draw_loss_chart(curve) or "") < 40_000
