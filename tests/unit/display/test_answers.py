"""Answers side by side."""

from __future__ import annotations

import io

from finch_hub.display.answers import DrawnAnswers, write_html
from finch_hub.display.visible_console import VisibleConsole

from .conftest import Drawn

ROWS = [
    {"prompt": "Why?", "answers": {"base": "No idea.", "birds/1": "To\nfly."}, "completion": "To fly."},
    {"prompt": "<b>Who</b> & 'you'?", "answers": {"base": "<script>alert(1)</script>", "birds/1": "\u202eme\x1b[2J"}},
]


def test_each_that_answers_has_a_column(drawn: Drawn) -> None:
    lines = drawn(DrawnAnswers(["base", "birds/1"], ROWS)).splitlines()
    header = next(line for line in lines if "prompt" in line)
    assert header.split() == ["prompt", "base", "birds/1", "expected"]
    assert any(line.split() == ["Why?", "No", "idea.", "To", "To", "fly."] for line in lines)


def test_answers_without_an_expected_one_have_no_column_for_it(drawn: Drawn) -> None:
    assert "expected" not in drawn(DrawnAnswers(["base", "birds/1"], ROWS[1:]))


def test_answer_that_has_no_room_in_a_table_keeps_its_lines_and_forges_no_name() -> None:
    code = "def f(x):\n    if x:\n\treturn 1\nbase\n\nbirds/2" + " and long words" * 9
    rows = [{"prompt": "Write\nbirds/1", "answers": {"base": "No.", "birds/1": code}}]
    stream = io.StringIO()
    console = VisibleConsole(stderr=False, width=40)
    console.file = stream
    console.print(DrawnAnswers(["base", "birds/1"], rows))
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["prompt", "base", "birds/1"]
    place = lines.index("  def f(x):")
    assert lines[place + 1 : place + 4] == ["      if x:", "      return 1", "  base"]
    assert max(map(len, lines)) <= 40


def test_page_is_inert() -> None:
    page = write_html(["base", "birds/1"], ROWS)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;Who&lt;/b&gt; &amp; &#x27;you&#x27;?" in page
    assert "default-src 'none'" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert page.count("<td>") == 8
