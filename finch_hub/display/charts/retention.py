"""What a composition keeps of its parents, by the data on which it was measured."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub.display.charts.chart import Chart, format_figure, is_drawable, label_names
from finch_hub.display.charts.matrix import Cell, specify_matrix
from finch_hub.formats.picture_colors import HIGH_CELL
from finch_hub.specs.reports import Retention

_TITLE = "Retention by parent"
_SUBTITLE = "Held-out loss on the rows of each parent, and the share of its gain over the base"


def chart_retention(retention: Sequence[Retention]) -> Chart | None:
    """Return a row for the data of each parent, and a column for each that answered it, None without a figure."""
    if not any(kept.status != "unmeasured" for kept in retention):
        return None
    has_linear = any(kept.linear is not None for kept in retention)
    columns = ("base", "parent alone", *(("plain linear",) if has_linear else ()), "composition")
    labels = [f"rows of {name}" for name in label_names(kept.parent for kept in retention)]
    cells = []
    for label, kept in zip(labels, retention, strict=True):
        for column in columns:
            loss = _losses(kept)[column]
            share = share_of(kept, loss) if column != "composition" else kept.retention
            text = "not measured" if loss is None else format_figure(loss)
            if share is not None and is_drawable(share):
                text = f"{share:.0%} ({text})" if abs(share) < 100 else f"({text})"
            cells.append(Cell(row=label, column=column, strength=share, text=text))
    description = f"{_TITLE}: {', '.join(f'{kept.parent} {_describe(kept)}' for kept in retention)}"
    specification = specify_matrix(
        cells,
        rows=labels,
        columns=columns,
        high=HIGH_CELL,
        title=_TITLE,
        subtitle=_SUBTITLE,
        description=description,
        axis="",
        width=118,
        height=34,
    )
    rows = tuple(
        (
            kept.parent,
            *(format_figure(_losses(kept)[column]) for column in columns),
            _describe(kept),
            f"{kept.examples:,}",
        )
        for kept in retention
    )
    undefined = any(kept.status == "undefined" for kept in retention)
    note = "A row without colors is of a parent that gained too little to say which share is kept." if undefined else ""
    return Chart(
        name="retention",
        title=_TITLE,
        description=description,
        specification=specification,
        columns=("rows of", *columns, "retention", "examples"),
        rows=rows,
        note=note,
    )


def share_of(kept: Retention, loss: float | None) -> float | None:
    """Return the share of the parent's gain that a loss is, None if the gain is too small or unknown."""
    if kept.status != "measured" or kept.base is None or kept.own is None or loss is None:
        return None
    gain = kept.base - kept.own
    share = (kept.base - loss) / gain if gain else None
    return share if is_drawable(share) else None


def _losses(kept: Retention) -> dict[str, float | None]:
    return {
        "base": kept.base, "parent alone": kept.own, "plain linear": kept.linear, "composition": kept.composed,
    }  # fmt: skip


def _describe(kept: Retention) -> str:
    return kept.status if kept.retention is None else f"{kept.retention:.1%}"
