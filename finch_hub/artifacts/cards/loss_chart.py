"""The loss curve of a training as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from finch_hub.artifacts.cards.drawing import write_svg, write_text
from finch_hub.formats.picture_colors import GRID, HELD_OUT, TRAIN
from finch_hub.specs.evidence import MAX_POINTS, LossCurve

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 48
_MAX_LOSS = 1e300  # the difference of two losses is finite

_Point = tuple[int, float]


def draw_loss_chart(curve: LossCurve) -> str | None:
    """Return the drawing, None if there are fewer than two points."""
    train = _finite(zip(curve.steps, curve.train_loss, strict=True))
    held_out = _finite(zip(curve.evaluated_steps, curve.held_out_loss, strict=True))
    if len(train) < 2 and len(held_out) < 2:
        return None
    points = [*train, *held_out]
    last_step = max(step for step, _ in points) or 1
    ticks = _choose_ticks(min(loss for _, loss in points), max(loss for _, loss in points))
    low, high = ticks[0], ticks[-1]

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last_step
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / (high - low)

    lines: list[str] = []
    for tick in ticks:
        _, y = place(0, tick)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{GRID}" fill="none"/>')
        lines.append(write_text(_LEFT - 8, y + 4, f"{tick:g}", anchor="end"))
    for step in sorted({0, last_step // 2, last_step}):
        x, _ = place(step, low)
        lines.append(write_text(x, _HEIGHT - _BOTTOM + 18, f"{step:,}"))
    lines.append(write_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, "step"))
    lines.append(write_text(_LEFT, _TOP - 16, "loss in nats per token", anchor="start"))
    named = [(train, TRAIN, "training"), (held_out, HELD_OUT, "held out")]
    shown = [(part, color, name) for part, color, name in named if part]
    for number, (part, color, name) in enumerate(shown):
        places = [place(*point) for point in part]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        lines.append(f'<path d="M{path}" stroke="{color}" stroke-width="2" stroke-linejoin="round" fill="none"/>')
        if name == "held out":
            lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        x = _WIDTH - _RIGHT - 90 * (len(shown) - number)
        lines.append(f'<path d="M{x} {_TOP - 20}h18" stroke="{color}" stroke-width="2" fill="none"/>')
        lines.append(write_text(x + 24, _TOP - 16, name, anchor="start"))
    return write_svg(lines, width=_WIDTH, height=_HEIGHT, title="Loss by step of the training")


def describe_curve(curve: LossCurve) -> str:
    """Return what the drawing shows, for those who do not see it."""
    parts = []
    for name, losses in (("training", curve.train_loss), ("held-out", curve.held_out_loss)):
        finite = [loss for loss in losses if _is_shown(loss)]
        if len(finite) > 1:
            parts.append(f"{name} loss from {finite[0]:.3f} to {finite[-1]:.3f}, at best {min(finite):.3f}")
    steps = max((*curve.steps, *curve.evaluated_steps), default=0)
    return f"{' and '.join(parts)}, in {steps:,} steps"


def _finite(points: Iterable[_Point]) -> list[_Point]:
    """Return the points that can be drawn. A curve of a bundle can have any number of them."""
    found = [(step, loss) for step, loss in points if _is_shown(loss)]
    if len(found) <= MAX_POINTS:
        return found
    return [found[round(place * (len(found) - 1) / (MAX_POINTS - 1))] for place in range(MAX_POINTS)]


def _is_shown(loss: float) -> bool:
    return abs(loss) < _MAX_LOSS  # neither NaN nor infinite


def _choose_ticks(low: float, high: float) -> Sequence[float]:
    """Return four to eight round numbers, of which the first and the last enclose the losses."""
    span = max(high - low, abs(high) * 1e-3, 1e-6)
    unit = 10.0 ** math.floor(math.log10(span / 4))
    size = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first, last = math.floor(low / size), math.ceil(high / size)
    last = max(last, first + 1)
    return [float(f"{number * size:.6g}") for number in range(first, last + 1)]
