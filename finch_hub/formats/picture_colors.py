"""Colors of pictures, for a light and a dark page.

Series have the colors of Okabe and Ito, which the color-blind can tell apart (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

PAGE, INK, MUTED, GRID = "#ffffff", "#24292f", "#57606a", "#d0d7de"
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
TRAIN, HELD_OUT = BLUE, VERMILION

LOW_CELL, HIGH_CELL, ALARM_CELL = "#eef2f6", "#0b4f7d", "#8a2a06"
"""Ends of the scales of matrices: little of both, much of what is good, and much of what is bad."""
CELL_INK, CELL_PAPER = "#111111", "#fafafa"
"""Texts on light and on dark cells. They are the same on every page."""

DARK = {PAGE: "#0d1117", INK: "#e6edf3", MUTED: "#9da7b3", GRID: "#30363d", BLUE: "#56b4e9", VERMILION: "#f08a3c",
        GREEN: "#2ec49a"}  # fmt: skip
"""Color on a dark page, by that on a light one."""


def mix(low: str, high: str, share: float) -> str:
    """Return the color at a share of the way between two, 0 to 1."""
    parts = ((int(low[place : place + 2], 16), int(high[place : place + 2], 16)) for place in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in parts)


def choose_ink(color: str) -> str:
    """Return the color of a text on a cell that differs more from it (WCAG 2.2, contrast ratio)."""
    return max((CELL_INK, CELL_PAPER), key=lambda ink: measure_contrast(color, ink))


def measure_contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors, 1 to 21 (WCAG 2.2)."""
    light, dark = sorted((_measure_luminance(one), _measure_luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _measure_luminance(color: str) -> float:
    parts = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
