"""Answers side by side."""

from __future__ import annotations

from finch_hub.display.answers import draw_answers, write_html

from .conftest import Drawn

ROWS = [
    {"prompt": "Why?", "answers": {"base": "No idea.", "birds/1": "To\nfly."}, "completion": "To fly."},
    {"prompt": "<b>Who</b> & 'you'?", "answers": {"base": "<script>alert(1)</script>", "birds/1": "\u202eme\x1b[2J"}},
]


def test_each_that_answers_has_a_column(drawn: Drawn) -> None:
    lines = drawn(draw_answers(["base", "birds/1"], ROWS)).splitlines()
    header = next(line for line in lines if "prompt" in line)
    assert header.split() == ["prompt", "base", "birds/1", "expected"]
    assert any(line.split() == ["Why?", "No", "idea.", "To", "To", "fly."] for line in lines)


def test_answers_without_an_expected_one_have_no_column_for_it(drawn: Drawn) -> None:
    assert "expected" not in drawn(draw_answers(["base", "birds/1"], ROWS[1:]))


def test_page_is_inert() -> None:
    page = write_html(["base", "birds/1"], ROWS)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;Who&lt;/b&gt; &amp; &#x27;you&#x27;?" in page
    assert "default-src 'none'" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert page.count("<td>") == 8
