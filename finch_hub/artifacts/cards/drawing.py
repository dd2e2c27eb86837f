"""Pictures in cards, drawn by hand as SVG. Equal values give equal bytes.

The Hugging Face Hub and GitHub show an SVG file beside a README. They take scripts, styles and external files out of
it, so it has only lines, rectangles and texts.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from finch_hub.formats.picture_colors import INK, MUTED, PAGE
from finch_hub.texts.visible_text import to_line

FONT = 'font-family="sans-serif" font-size="12"'


def write_svg(parts: Iterable[str], *, width: int, height: int, title: str) -> str:
    """Return a picture of some elements on a light page."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img">',
        f"<title>{_escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAGE}"/>',
    ]
    return "\n".join([*lines, *parts, "</svg>", ""])


def write_text(x: float, y: float, text: str, *, anchor: str = "middle", color: str = MUTED) -> str:
    """Return a text as an element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" {FONT}>{_escape(text)}</text>'


def write_heading(x: float, y: float, text: str) -> str:
    """Return the heading of a picture as an element."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" font-family="sans-serif" font-size="14"'
        f' font-weight="bold">{_escape(text)}</text>'
    )


def _escape(text: str) -> str:
    return html.escape(to_line(text), quote=False)
