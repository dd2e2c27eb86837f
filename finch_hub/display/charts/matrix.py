"""A matrix of colored cells with their values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from finch_hub.display.charts.chart import make_rows, make_specification
from finch_hub.formats.picture_colors import GRID, LOW_CELL, MUTED, choose_ink, mix
from finch_hub.specs.value import JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell: its place by the labels, how strong its color is from 0 to 1 (None: no color), and its text."""

    row: str
    column: str
    strength: float | None
    text: str


def specify_matrix(
    cells: Sequence[Cell],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    high: str,
    title: str,
    subtitle: str,
    description: str,
    axis: str,
    width: int,
    height: int,
    shows_text: bool = True,
) -> JsonObject:
    """Return the specification of a matrix.

    Args:
        rows: labels from top to bottom.
        columns: labels from left to right.
        high: color of the strength 1.
        axis: title above the columns.
        width: pixels of a column.
        height: pixels of a row.
    """
    known = {(cell.row, cell.column): cell for cell in cells}
    values: list[dict[str, str]] = []
    for row, column in itertools.product(rows, columns):
        cell = known.get((row, column), Cell(row=row, column=column, strength=None, text=""))
        color, ink = "none", MUTED
        if cell.strength is not None:
            color = mix(LOW_CELL, high, min(max(cell.strength, 0.0), 1.0))
            ink = choose_ink(color)
        values.append({"row": row, "column": column, "text": cell.text, "color": color, "ink": ink})
    top: JsonObject = {
        "orient": "top", "title": axis or None, "labelAngle": 0, "labelOverlap": True, "domain": False, "ticks": False,
        "labelPadding": 6,
    }  # fmt: skip
    side: JsonObject = {"title": None, "domain": False, "ticks": False, "labelPadding": 8}
    fill = {"field": "color", "type": "nominal", "scale": None, "legend": None}
    rectangle = {"type": "rect", "cornerRadius": 2, "stroke": GRID, "strokeWidth": 0.5}
    layers: list[JsonObject] = [{"mark": rectangle, "encoding": {"fill": fill}}]
    if shows_text:
        color_of_text = {"field": "ink", "type": "nominal", "scale": None, "legend": None}
        text = {"text": {"field": "text", "type": "nominal"}, "color": color_of_text}
        layers.append({"mark": {"type": "text"}, "encoding": text})
    scale = {"paddingInner": 0.06, "paddingOuter": 0}
    return make_specification(
        title,
        subtitle,
        description,
        data=make_rows(values),
        width={"step": width},
        height={"step": height},
        encoding={
            "x": {"field": "column", "type": "nominal", "sort": list(columns), "axis": top, "scale": scale},
            "y": {"field": "row", "type": "nominal", "sort": list(rows), "axis": side, "scale": scale},
        },
        layer=layers,
    )
