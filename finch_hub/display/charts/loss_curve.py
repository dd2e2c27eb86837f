"""The losses of a training by step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from finch_hub.display.charts.chart import WIDTH, Chart, format_figure, is_drawable, make_rows, make_specification
from finch_hub.formats.picture_colors import HELD_OUT, TRAIN
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.value import JsonObject

_TITLE = "Loss by step"
_SMOOTHED_FROM = 60  # points from which on a line wavers too much to be read
_WINDOWS = 24  # windows of the moving average in a curve
_MARKED = 40  # points that are marked one by one
_TABLE_ROWS = 20
_TICKS = 8
_LOG_FROM = 100  # times that the largest loss is of the smallest

_Points = list[tuple[int, float]]


def chart_losses(curve: LossCurve) -> Chart | None:
    """Return the losses on training and held-out rows by step, None without a point."""
    train = _drawable(curve.steps, curve.train_loss)
    held_out = _drawable(curve.evaluated_steps, curve.held_out_loss)
    if not train and not held_out:
        return None
    is_smoothed = len(train) >= _SMOOTHED_FROM
    layers = []
    if train:
        shown = smooth(train) if is_smoothed else train
        layers += [_draw(train, "training", width=1, opacity=0.35, marked=False)] if is_smoothed else []
        layers.append(_draw(shown, "training", width=2, marked=len(train) <= _MARKED))
    if held_out:
        layers.append(_draw(held_out, "held out", width=2, marked=len(held_out) <= _MARKED))
    description = describe_losses(train, held_out)
    names, colors = zip(*((n, c) for n, c, p in _SERIES if {"training": train, "held out": held_out}[p]), strict=True)
    losses = [loss for _, loss in (*train, *held_out)]
    last = max(step for step, _ in (*train, *held_out))
    is_log = min(losses) > 0 and max(losses) / min(losses) > _LOG_FROM
    scale: JsonObject = {"type": "log"} if is_log else {"zero": False, "nice": True}
    if min(losses) == max(losses):
        around = abs(losses[0]) * 0.1 or 1.0
        scale = {"domain": [losses[0] - around, losses[0] + around]}
    specification = make_specification(
        _TITLE,
        _summarize(held_out or train, "held out" if held_out else "training"),
        description,
        width=WIDTH,
        height=280,
        encoding={
            "x": {
                "field": "step",
                "type": "quantitative",
                "title": "step",
                "scale": {"domainMin": 0, "domainMax": last or 1},
                "axis": {"format": ",d", "grid": False, **_choose_ticks(last)},
            },
            "y": {
                "field": "loss",
                "type": "quantitative",
                "title": f"loss in nats per token{', log scale' if is_log else ''}",
                "scale": scale,
                "axis": {"tickCount": 6, **({"format": "~e"} if max(map(abs, losses)) >= 1e6 else {})},
            },
            "color": {
                "field": "series",
                "type": "nominal",
                "title": None,
                "scale": {"domain": names, "range": colors},
                "legend": {"orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1},
            },
        },
        layer=layers,
    )
    rows = _tabulate(curve)
    note = "The bold line of the training is a moving average; the thin one has all points." if is_smoothed else ""
    return Chart(
        name="loss",
        title=_TITLE,
        description=description,
        specification=specification,
        columns=("step", "training loss", "held-out loss", "held-out accuracy"),
        rows=rows,
        note=note,
    )


_SERIES = (("training", TRAIN, "training"), ("held out", HELD_OUT, "held out"))


def describe_losses(train: _Points, held_out: _Points) -> str:
    """Return what the curve shows in words."""
    parts = []
    for name, points in (("training", train), ("held-out", held_out)):
        losses = [loss for _, loss in points]
        if len(losses) == 1:
            parts.append(f"{name} loss {format_figure(losses[0])}")
        elif losses:
            figures = (format_figure(loss) for loss in (losses[0], losses[-1], min(losses)))
            parts.append("{} loss from {} to {}, at best {}".format(name, *figures))
    last = max(step for step, _ in (*train, *held_out))
    return f"{' and '.join(parts)}, in {last:,} steps"


def smooth(points: Sequence[tuple[int, float]]) -> _Points:
    """Return the moving average of many points, over a window that grows from the first one and that the end cuts."""
    half = max(1, len(points) // _WINDOWS // 2)
    sums = [0.0, *itertools.accumulate(loss for _, loss in points)]
    smoothed = []
    for place, (step, _) in enumerate(points):
        reach = min(half, place)
        begin, end = place - reach, min(len(points), place + reach + 1)
        smoothed.append((step, (sums[end] - sums[begin]) / (end - begin)))
    return smoothed


def _choose_ticks(last: int) -> JsonObject:
    """Return the ticks of few steps. Vega would put some between them."""
    return {"values": list(range(last + 1))} if last <= _TICKS else {"tickCount": _TICKS}


def _drawable(steps: Sequence[int], losses: Sequence[float]) -> _Points:
    return [(step, loss) for step, loss in zip(steps, losses, strict=True) if is_drawable(loss)]


def _draw(points: _Points, series: str, *, width: int, marked: bool, opacity: float = 1) -> JsonObject:
    mark: JsonObject = {"type": "line", "strokeWidth": width, "strokeJoin": "round", "opacity": opacity}
    if marked:
        mark["point"] = {"size": 36, "filled": True, "opacity": 1}
    rows = [{"step": step, "loss": float(f"{loss:.6g}"), "series": series} for step, loss in points]
    return {"data": make_rows(rows), "mark": mark}


def _summarize(points: _Points, series: str) -> str:
    if len(points) == 1:
        return f"{series}: {format_figure(points[0][1])} at step {points[0][0]:,}"
    step, best = min(points, key=lambda point: point[1])
    first, last = format_figure(points[0][1]), format_figure(points[-1][1])
    return f"{series}: {first} at first, {format_figure(best)} at its lowest (step {step:,}), {last} at last"


def _tabulate(curve: LossCurve) -> tuple[tuple[str, ...], ...]:
    """Return the losses at some steps: at those of evaluations first, then at others."""
    train = dict(zip(curve.steps, curve.train_loss, strict=True))
    evaluated = {step: (loss, accuracy) for step, loss, accuracy in curve.evaluations}
    steps = sorted(evaluated) if len(evaluated) > 1 else sorted({*train, *evaluated})
    if len(steps) > _TABLE_ROWS:
        steps = [steps[round(place * (len(steps) - 1) / (_TABLE_ROWS - 1))] for place in range(_TABLE_ROWS)]
    rows = []
    for step in steps:
        near = max((known for known in train if known <= step), default=None)
        loss, accuracy = evaluated.get(step, (None, None))
        shown = "-" if accuracy is None or not is_drawable(accuracy) else f"{accuracy:.1%}"
        rows.append((f"{step:,}", format_figure(None if near is None else train[near]), format_figure(loss), shown))
    return tuple(rows)
