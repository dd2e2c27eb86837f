"""Texts of strangers in Markdown, as a parser of Markdown reads them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support import fuzzing

from finch_hub.formats.markdown import format_code, format_code_block, format_text
from finch_hub.texts.visible_text import to_line

TEXTS = (
    st.text()
    | st.text(st.sampled_from("a1 `~|\\*_[](){}<>#-+!&;:/@.$=\n\r\t\x1b\u2028\u202e"))
    | st.sampled_from(
        [
            "\n# heading",
            "](javascript:x)",
            "</script><img onerror=x>",
            "| a | b |",
            "---\nlicense: x",
            "www.x.org",
            "&lt;",
            "\\",
        ]
    )
)
PARSER = MarkdownIt("commonmark").enable("table")


def parse(text: str) -> list[tuple[str, ...]]:
    """Return the blocks and the parts of lines of a text, without the text itself."""
    return [(token.type, *(part.type for part in token.children or ())) for token in PARSER.parse(text)]


@given(TEXTS)
@settings(max_examples=fuzzing.examples(300))
def test_a_text_forges_nothing_wherever_it_stands(text: str) -> None:
    shown, code = format_text(text), format_code(text)
    assert to_line(shown) == shown
    for page in ("# {}\n", "| k | v |\n|---|---|\n| {} | 1 |\n| b | {} |\n", "a ({}) b\n", "- {}, weight 1\n"):
        assert parse(page.replace("{}", code)) == parse(page.replace("{}", "`x`"))
        assert parse(page.replace("{}", shown)) in (parse(page.replace("{}", "x")), parse(page.replace("{}", "`x`")))


@given(TEXTS)
@settings(max_examples=fuzzing.examples(300))
def test_a_block_of_code_holds_its_text_and_ends_behind_it(text: str) -> None:
    page = "\n".join(["## Title", "", "before", "", *format_code_block(f"a{text}b"), "", "## Next", ""])
    block = ["heading_open", "inline", "heading_close"]
    assert [token.type for token in PARSER.parse(page)] == [
        *block, "paragraph_open", "inline", "paragraph_close", "code_block", *block,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["birds", "birds-2.b", "loss_after", "SmolLM2-135M", "2"])
def test_a_plain_name_stays(name: str) -> None:
    assert format_text(name) == name


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a b", "`a b`"),
        ("www.x.org", "`www.x.org`"),
        ("`x` | y", r"`\x60x\x60 \x7c y`"),
        ("", "`-`"),
        ("a\nb", r"`a\nb`"),
    ],
)
def test_another_text_is_code(text: str, code: str) -> None:
    assert format_text(text) == code
