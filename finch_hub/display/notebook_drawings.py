"""Drawings of values as a notebook shows them: those of the commands, and loss curves, on a light or a dark page."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finch_hub.display import previews, reports, sweeps
from finch_hub.specs.evidence import LossCurve
from finch_hub.texts.summaries import NOT_MATH

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 100
_RED, _GREEN = (209, 73, 91), (46, 139, 87)  # with a contrast of 4 to white and to black pages
_DRAWINGS: dict[str, Callable[[Any], RenderableType]] = {
    **reports.DRAWINGS,
    "DataPreview": previews.draw_data_preview,
    "SweepReport": sweeps.draw_sweep,
    "TrainingPreview": previews.draw_training_preview,
}
_FORMAT = '<pre style="font-family: monospace; line-height: normal; white-space: pre; overflow-x: auto">{code}</pre>'


def draw_html(value: object) -> str | None:
    """Return the drawing of a value as HTML, in which no text of the value is HTML. None if it has no drawing."""
    if isinstance(value, LossCurve):
        return draw_curve(value) or None
    draw = _DRAWINGS.get(type(value).__name__)
    return None if draw is None else _export(type(value).__name__, draw(value))


def draw_curve(curve: LossCurve) -> str:
    """Draw a loss curve in the colors of the page around it. Too few points are drawn empty."""
    from finch_hub.artifacts.cards.loss_chart import draw_loss_chart
    from finch_hub.formats.picture_colors import GRID, INK, MUTED, PAGE

    drawn = draw_loss_chart(curve) or ""
    for color, of_page in ((PAGE, "none"), (INK, "currentColor"), (MUTED, "currentColor"), (GRID, "#80808060")):
        drawn = drawn.replace(f'"{color}"', f'"{of_page}"')
    return drawn


def write_plainly(drawing: RenderableType) -> list[str]:
    """Return the lines of a drawing without colors: the errors of a kernel seem to go to a terminal."""
    from finch_hub.display.visible_console import VisibleConsole

    written = io.StringIO()
    console = VisibleConsole(stderr=False, width=_WIDTH, file=written, force_terminal=False)
    console.print(drawing, soft_wrap=isinstance(drawing, str))
    return written.getvalue().rstrip().splitlines()


def _export(name: str, drawing: RenderableType) -> str:
    from rich.terminal_theme import TerminalTheme

    from finch_hub.display.visible_console import VisibleConsole

    colors = [(0, 0, 0), _RED, _GREEN, *5 * [(128, 128, 128)]]
    options: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "no_color": False}
    console = VisibleConsole(stderr=False, width=_WIDTH, file=io.StringIO(), record=True, **options)
    console.print(drawing)
    theme = TerminalTheme((255, 255, 255), (0, 0, 0), colors)
    exported = console.export_html(inline_styles=True, code_format=_FORMAT, theme=theme)
    return f"<div {NOT_MATH}><div>{html.escape(name)}</div>{exported}</div>"
