"""Rendering of charts as SVG, which needs no network, no script and no browser."""

from __future__ import annotations

import html
import re
from typing import Any

from finch_hub import errors
from finch_hub.formats.picture_colors import DARK
from finch_hub.specs.value import JsonObject
from finch_hub.texts.visible_text import to_line

_ROOT = re.compile(r"<svg\b[^>]*>")
_ID = re.compile(r'\bid="([\w-]+)"|url\(#([\w-]+)\)|href="#([\w-]+)"')


def render_svg(specification: JsonObject, *, name: str, title: str, description: str) -> str:
    """Return a Vega-Lite specification as SVG. It follows the colors of a dark page, and its ids begin with its name.

    Raises:
        InvalidInput: the extra `report` is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise errors.InvalidInput("needs vl-convert-python", where="a chart", fix=INSTALL) from None
    # It ends the whole process at a character that XML does not have.
    drawn = vl_convert.vegalite_to_svg(_make_visible(specification), allowed_base_urls=[])
    root = _ROOT.search(drawn)
    if root is None:
        raise AssertionError("vl-convert returned no SVG")
    opened = root[0].replace("<svg", '<svg role="img"', 1)
    head = f"<title>{_escape(title)}</title><desc>{_escape(description)}</desc><style>{STYLE}</style>"
    return _ID.sub(lambda found: _rename(found, name), f"{opened}{head}{drawn[root.end() :]}")


INSTALL = "pip install 'finch-hub[report]'"


def _write_style() -> str:
    """Return rules that replace each color on a dark page. On paper, pages are light."""
    rules = (
        f'svg [{attribute}="{light}"]{{{attribute}:{dark}}}'
        for light, dark in DARK.items()
        for attribute in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme:dark){{{''.join(rules)}}}"


STYLE = _write_style()


def _rename(found: re.Match[str], name: str) -> str:
    old = next(group for group in found.groups() if group is not None)
    return found[0].replace(old, f"{name}-{old}")


def _make_visible(value: Any) -> Any:
    """Return a specification whose texts are visible lines."""
    if isinstance(value, dict):
        return {name: _make_visible(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_make_visible(part) for part in value]
    return to_line(value) if isinstance(value, str) else value


def _escape(text: str) -> str:
    return html.escape(to_line(text), quote=False)
