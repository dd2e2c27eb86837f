"""Horizontal bars with their values behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finch_hub.display.charts.chart import WIDTH, Chart, label_names, make_rows, make_specification
from finch_hub.formats.picture_colors import BLUE, INK, MUTED, VERMILION
from finch_hub.specs.value import JsonObject

_STEP = 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A value with its name, and as text."""

    name: str
    value: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A value from which on something is wrong, with its name."""

    name: str
    value: float


def chart_bars(
    bars: Sequence[Bar], *, name: str, title: str, subtitle: str, unit: str, columns: tuple[str, str],
    limit: Limit | None = None,
) -> Chart:  # fmt: skip
    """Return bars in their order, from top to bottom, and a rule at a limit."""
    labels = label_names(bar.name for bar in bars)
    rows = [{"label": label, "value": bar.value, "text": bar.text} for label, bar in zip(labels, bars, strict=True)]
    largest = max(0.0, *(bar.value for bar in bars), limit.value if limit is not None else 0.0)
    description = f"{title}: {', '.join(f'{bar.name} {bar.text}' for bar in bars)}"
    x: JsonObject = {
        "field": "value",
        "type": "quantitative",
        "title": unit,
        # Behind the longest bar is room for its text.
        "scale": {"domain": [0, (largest or 1) * 1.18]},
        "axis": {"grid": False, "tickCount": 6, **({"format": "~s"} if largest >= 10_000 else {})},
    }
    axis = {"domain": False, "ticks": False, "labelPadding": 8}
    y = {"field": "label", "type": "nominal", "sort": labels, "title": None, "axis": axis}
    layers: list[JsonObject] = [
        {"mark": {"type": "bar", "color": BLUE, "height": {"band": 0.62}}},
        {
            "mark": {"type": "text", "align": "left", "dx": 6, "color": INK},
            "encoding": {"text": {"field": "text", "type": "nominal"}},
        },
    ]
    if limit is not None:
        at = [{"value": limit.value, "text": limit.name}]
        rule = {"type": "rule", "color": VERMILION, "strokeWidth": 2, "strokeDash": [6, 4]}
        side, offset = ("right", -6) if limit.value > largest / 2 else ("left", 6)
        text = {"type": "text", "color": MUTED, "align": side, "dx": offset, "dy": -8, "baseline": "bottom"}
        layers += [
            {"data": make_rows(at), "mark": rule, "encoding": {"y": None}},
            {
                "data": make_rows(at),
                "mark": text,
                "encoding": {"y": {"value": 0}, "text": {"field": "text", "type": "nominal"}},
            },
        ]
    specification = make_specification(
        title,
        subtitle,
        description,
        data=make_rows(rows),
        width=WIDTH - 200,
        height=_STEP * len(rows),
        encoding={"x": x, "y": y},
        layer=layers,
    )
    cells = tuple((bar.name, bar.text) for bar in bars)
    return Chart(
        name=name, title=title, description=description, specification=specification, columns=columns, rows=cells
    )
