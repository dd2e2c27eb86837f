"""A chart: a Vega-Lite specification with its data, a description in words, and its numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finch_hub.display.charts.rendering import render_svg
from finch_hub.formats.picture_colors import GRID, INK, MUTED, PAGE
from finch_hub.specs.value import JsonObject
from finch_hub.texts.visible_text import to_line

WIDTH = 640
MAX_LABEL = 30
"""Characters of a name in a chart."""
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart, which nothing has drawn yet.

    Attributes:
        name: short name, for files and ids.
        description: what it shows, for those who do not see it.
        specification: Vega-Lite (https://vega.github.io/vega-lite), with all data in it.
        columns: heads of the table of its numbers.
        rows: cells of the table, as text.
        note: what is not in the picture; empty if all is.
    """

    name: str
    title: str
    description: str
    specification: JsonObject
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def draw_svg(self) -> str:
        """Return the picture.

        Raises:
            InvalidInput: the extra `report` is not installed.
        """
        return render_svg(self.specification, name=self.name, title=self.title, description=self.description)

    def _repr_html_(self) -> str:
        """Return the picture for a notebook."""
        return self.draw_svg()


def make_specification(title: str, subtitle: str, description: str, **parts: Any) -> JsonObject:
    """Return a specification with a title, our fonts and our colors."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "title": {"text": title, "subtitle": subtitle},
        "background": PAGE,
        "padding": 12,
        "config": _CONFIG,
        **parts,
    }


def label_names(names: Iterable[str]) -> list[str]:
    """Return names that are short enough for a chart, and differ where the names do."""
    labels: dict[str, str] = {}
    listed = list(names)
    for name in listed:
        label, number = shorten(name), 1
        while label in labels.values() and name not in labels:
            number += 1
            label = f"{shorten(name, MAX_LABEL - 4)} ({number})"
        labels.setdefault(name, label)
    return [labels[name] for name in listed]


def shorten(name: str, most: int = MAX_LABEL) -> str:
    """Return a name on one line, without the middle of a long one."""
    line = to_line(name)
    return line if len(line) <= most else f"{line[: most // 2 - 1]}…{line[len(line) - (most - most // 2) :]}"


def is_drawable(value: float | None) -> bool:
    """Tell whether a number can be drawn: it is neither missing, NaN, infinite nor beyond every scale."""
    return value is not None and math.isfinite(value) and abs(value) < 1e300


def format_figure(value: float | None, places: int = 3) -> str:
    """Format a number for a table or a cell, with an exponent if it is very large."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2e}" if abs(value) >= 1e6 else f"{value:,.{places}f}"


def make_rows(values: Sequence[Mapping[str, object]]) -> JsonObject:
    """Return data as a specification has them."""
    return {"values": [dict(value) for value in values]}


_TEXTS = {"labelColor": MUTED, "titleColor": INK, "labelFont": _FONT, "titleFont": _FONT}
_CONFIG: JsonObject = {
    "aria": False,  # the picture as a whole has a name and a description
    "font": _FONT,
    "view": {"stroke": None},
    "title": {
        "anchor": "start", "frame": "bounds", "offset": 14, "color": INK, "fontSize": 15, "font": _FONT,
        "subtitleColor": MUTED, "subtitleFontSize": 12, "subtitleFont": _FONT, "subtitlePadding": 5,
    },
    "axis": {
        **_TEXTS, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": GRID,
        "domainColor": GRID, "tickColor": GRID, "labelLimit": 420, "titlePadding": 10,
    },
    "legend": {**_TEXTS, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titleLimit": 420},
    "text": {"font": _FONT, "fontSize": 12},
}  # fmt: skip
