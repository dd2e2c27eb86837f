"""The retention of a composition as SVG: who answers the rows of each parent how well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from finch_hub.artifacts.cards.drawing import write_heading, write_svg, write_text
from finch_hub.formats.picture_colors import GRID, HIGH_CELL, LOW_CELL, MUTED, choose_ink, mix
from finch_hub.specs.reports import Retention
from finch_hub.texts.visible_text import to_line

TITLE = "Retention by parent"
_LABEL, _CELL, _ROW, _TOP, _EDGE = 208, 128, 34, 72, 12
_MAX_NAME = 26  # characters of a parent that its place has room for
_MAX_PARENTS = 64
_MAX_FIGURE = 1e6

_Row = tuple[tuple[str, float | None, float | None], ...]


def draw_retention_matrix(retention: Sequence[Retention]) -> str | None:
    """Return the drawing, None without a measured figure. Of very many parents, it has the first."""
    if not any(kept.status != "unmeasured" for kept in retention):
        return None
    shown = retention[:_MAX_PARENTS]
    rows = [_list_cells(kept) for kept in shown]
    if all(kept.linear is None for kept in shown):
        rows = [tuple(cell for cell in row if cell[0] != "plain linear") for row in rows]
    width = _EDGE + _LABEL + _CELL * len(rows[0]) + _EDGE
    height = _TOP + _ROW * len(rows) + _EDGE
    return write_svg(_draw(shown, rows), width=width, height=height, title=describe_retention(retention))


def describe_retention(retention: Sequence[Retention]) -> str:
    """Return what the drawing shows, for those who do not see it."""
    shares = (kept.status if kept.retention is None else f"{kept.retention:.0%}" for kept in retention)
    names = (kept.parent for kept in retention)
    parts = [f"{name} {share}" for name, share in zip(names, shares, strict=True)]
    more = f" and {len(parts) - _MAX_PARENTS} more" if len(parts) > _MAX_PARENTS else ""
    return f"{TITLE}: {', '.join(parts[:_MAX_PARENTS])}{more}"


def _draw(retention: Sequence[Retention], rows: Sequence[_Row]) -> Iterator[str]:
    yield write_heading(_EDGE, 24, TITLE)
    yield write_text(_EDGE, 42, "share of the gain over the base, and held-out loss", anchor="start")
    for number, (name, _, _) in enumerate(rows[0]):
        yield write_text(_EDGE + _LABEL + _CELL * (number + 0.5), _TOP - 8, name)
    for line, (kept, row) in enumerate(zip(retention, rows, strict=True)):
        top = _TOP + _ROW * line
        yield write_text(_EDGE + _LABEL - 10, top + 21, f"rows of {_shorten(kept.parent)}", anchor="end")
        for number, (_, loss, share) in enumerate(row):
            color = "none" if share is None else mix(LOW_CELL, HIGH_CELL, min(max(share, 0.0), 1.0))
            left = _EDGE + _LABEL + _CELL * number
            yield (
                f'<rect x="{left + 1}" y="{top + 1}" width="{_CELL - 2}" height="{_ROW - 2}" rx="2"'
                f' fill="{color}" stroke="{GRID}"/>'
            )
            ink = MUTED if share is None else choose_ink(color)
            yield write_text(left + _CELL / 2, top + 21, _format(loss, share), color=ink)


def _list_cells(kept: Retention) -> _Row:
    losses = {"base": kept.base, "parent alone": kept.own, "plain linear": kept.linear, "composition": kept.composed}
    return tuple((name, loss, _find_share(kept, name, loss)) for name, loss in losses.items())


def _find_share(kept: Retention, name: str, loss: float | None) -> float | None:
    """Return the share of the parent's gain that a loss is, None if it is not known or cannot be drawn."""
    if kept.status != "measured" or kept.base is None or kept.own is None or loss is None or kept.base == kept.own:
        return None
    share = kept.retention if name == "composition" else (kept.base - loss) / (kept.base - kept.own)
    return share if share is not None and math.isfinite(share) else None


def _format(loss: float | None, share: float | None) -> str:
    if loss is None:
        return "not measured"
    figure = f"{loss:.3f}" if abs(loss) < _MAX_FIGURE else f"{loss:.2e}"
    return figure if share is None or abs(share) > 99 else f"{share:.0%} ({figure})"


def _shorten(name: str) -> str:
    half, name = _MAX_NAME // 2, to_line(name)
    return name if len(name) <= _MAX_NAME else f"{name[: half - 1]}…{name[-half:]}"
