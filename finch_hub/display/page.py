"""A report as a page: sections of sentences, names and values, pictures with their tables, and code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finch_hub import errors
from finch_hub.display.charts.chart import Chart
from finch_hub.display.charts.rendering import INSTALL
from finch_hub.formats.picture_colors import DARK, GRID, INK, MUTED, PAGE
from finch_hub.texts.visible_text import to_block

MARK = '<meta name="generator" content="finch-hub report">'
"""A line of each report, by which a later one knows what it replaces."""

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table under its column names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def is_numeric(self) -> tuple[bool, ...]:
        """Which columns have numbers alone."""
        cells = tuple(zip(*self.rows, strict=True)) if self.rows else ((),) * len(self.columns)
        return tuple(bool(column) and all(map(_is_number, column)) for column in cells)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of a page, shown in this order.

    Attributes:
        texts: sentences.
        fields: names and values.
        charts: pictures, each with its numbers beneath.
        quotes: texts of several lines, by their names; a group for each.
        code: lines for a shell.
    """

    heading: str
    texts: tuple[str, ...] = ()
    fields: Fields = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    quotes: tuple[Fields, ...] = ()
    code: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page with its title and sections."""

    title: str
    sections: tuple[Section, ...]


def write_page(page: Page, *, clean: Callable[[str], str] = lambda text: text) -> str:
    """Return a page as one HTML file, which needs no network, runs no script, and can be printed.

    All texts are escaped.

    Args:
        clean: applied to each text before it is escaped.

    Raises:
        InvalidInput: the extra `report` is not installed.
    """
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise errors.InvalidInput("needs jinja2", where="a report", fix=INSTALL) from None

    def finish(value: Any) -> Any:
        return value if isinstance(value, markupsafe.Markup) else to_block(clean(str(value)))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finch_hub.display"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finish,
    )
    return environment.get_template("report.html").render(
        page=page,
        mark=markupsafe.Markup(MARK),  # noqa: S704 - it is ours
        draw=lambda chart: markupsafe.Markup(chart.draw_svg()),  # noqa: S704 - it escapes its texts
        tabulate=lambda chart: Table(title=f"Numbers: {chart.title}", columns=chart.columns, rows=chart.rows),
        light={"page": PAGE, "ink": INK, "muted": MUTED, "line": GRID},
        dark={"page": DARK[PAGE], "ink": DARK[INK], "muted": DARK[MUTED], "line": DARK[GRID]},
    )


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text in ("-", "not finite") or (text[:1] == "-" and text[1:2].isdigit())
