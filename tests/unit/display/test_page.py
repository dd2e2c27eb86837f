"""A page of a report: one inert file that can be read by everybody."""

from __future__ import annotations

import html.parser
import re
import sys

import pytest
from support.evidence import HOSTILE, make_curve

from finch_hub import errors
from finch_hub.display.charts.loss_curve import chart_losses
from finch_hub.display.page import MARK, Page, Section, Table, write_page


class Reader(html.parser.HTMLParser):
    """Elements of a page with their attributes, and its texts. It raises at elements that are not closed."""

    EMPTY = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def full_page(text: str) -> Page:
    """Return a page that has a text in each of its places."""
    chart = chart_losses(make_curve(20, 3))
    assert chart is not None
    section = Section(
        heading=text,
        texts=(text,),
        fields=((text, text),),
        charts=(chart,),
        tables=(Table(title=text, columns=(text, "b"), rows=((text, "1.5"),)),),
        quotes=(((text, text),),),
        code=text,
    )
    return Page(title=text, sections=(section, Section(heading="Second")))


def test_texts_of_strangers_are_texts() -> None:
    harmless, written = Reader(write_page(full_page("plain"))), write_page(full_page(HOSTILE))
    hostile = Reader(written)
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert "\u202e" not in written
    assert "\x1b" not in written
    assert sum("<script>alert(1)" in text for text in hostile.texts) == 13


def test_page_runs_nothing_and_fetches_nothing() -> None:
    written = write_page(full_page("plain"))
    reader = Reader(written)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "foreignobject", "use"}
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("href", "#")).startswith("#")
        assert not attributes.keys() & {"src", "srcset", "action", "data", "xlink:href"}
    assert "@import" not in written
    assert not re.search(r"url\((?!#)", written)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in [a for _, a in reader.elements]


def test_page_has_landmarks_headings_and_table_heads() -> None:
    written = write_page(full_page("plain"))
    reader = Reader(written)
    elements = reader.elements
    assert ("html", {"lang": "en"}) in elements
    assert [tag for tag, _ in elements if tag in ("h1", "h2")] == ["h1", "h2", "h2"]
    assert {"title", "header", "nav", "main", "section", "figure"} <= {tag for tag, _ in elements}
    scopes = [attributes.get("scope") for tag, attributes in elements if tag == "th"]
    assert scopes
    assert set(scopes) == {"col", "row"}
    assert sum(tag == "table" for tag, _ in elements) == sum(tag == "caption" for tag, _ in elements) == 2
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"])[1:] for tag, attributes in elements if tag == "a"]
    assert links == [identity for identity in ids if str(identity).startswith("section-")]
    (picture,) = [attributes for tag, attributes in elements if tag == "svg"]
    assert picture["role"] == "img"
    assert MARK in written[:4096]


def test_page_is_light_dark_and_printed() -> None:
    written = write_page(full_page("plain"))
    assert "@media screen and (prefers-color-scheme: dark)" in written
    assert "@media print" in written
    assert '<meta name="color-scheme" content="light dark">' in written


def test_columns_of_numbers_are_aligned() -> None:
    table = Table(title="t", columns=("a", "b", "c"), rows=(("x", "1,200", "-"), ("2y", "-3.5", "not measured")))
    assert table.is_numeric == (False, True, False)
    assert Table(title="t", columns=("a",), rows=()).is_numeric == (False,)


def test_each_text_is_cleaned() -> None:
    written = write_page(full_page("hush <3"), clean=lambda text: text.replace("hush", "***"))
    assert "hush" not in written
    assert "*** &lt;3" in written


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(errors.InvalidInput, match=r"needs jinja2 \(pip install 'finch-hub\[report\]'\)"):
        write_page(full_page("plain"))
