"""Texts of strangers as they may be shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import fuzzing

from finch_hub.texts.visible_text import to_block, to_json, to_line, to_message

TEXTS = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from(
        "a1#é©क🐦ب\x1b\x07\r\n\t\x7f\x9b\x85\u2028\u202e\u2066\u200f\u061c\u200b\u200c\u200d\ufe0f\u20e3\ufeff"
        '\u3164\ud800\U000e0041\U000e0100\\"'
    )
)
JOINERS = {"\u200c", "\u200d"}


def is_safe(character: str) -> bool:
    return character in JOINERS or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(TEXTS)
@settings(max_examples=fuzzing.examples(300))
def test_a_line_has_nothing_that_steers_hides_or_ends_it(text: str) -> None:
    line = to_line(text)
    assert all(is_safe(character) or 0x600 <= ord(character) <= 0x110CD for character in line)
    assert not any(character in line for character in "\x1b\n\t\u061c\u180e\u200b\u202e\u2066\u200e\u200f\ufeff\u3164")
    assert len(line.splitlines()) <= 1
    line.encode()
    assert to_line(line) == line


@given(TEXTS)
@settings(max_examples=fuzzing.examples(300))
def test_a_block_keeps_its_lines_and_a_message_indents_those_after_the_first(text: str) -> None:
    block = to_block(text)
    assert to_line(block) == to_line(text.replace("\r\n", "\n"))
    assert set("\n\t") & set(block) == set("\n\t") & set(text)
    first, *others = to_message(text).split("\n")
    assert first == block.split("\n")[0]
    assert all(line.startswith("  ") or not line for line in others)
    assert to_message(to_message(text)) == to_message(text)


@given(st.recursive(TEXTS | st.integers(), lambda part: st.lists(part) | st.dictionaries(TEXTS, part), max_leaves=8))
@settings(max_examples=fuzzing.examples(300))
@example({"\x1b]0;x\x07": ["\x9b2J", "\u202e\ud800\U000e0041"]})
def test_json_keeps_its_value_and_shows_it(value: object) -> None:
    written = to_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(written) == json.loads(json.dumps(value))
    assert to_block(written) == written


@pytest.mark.parametrize(
    "text",
    [
        "Où est l'œuvre\u00a0? 5\u202f€",
        "荷物は\u3000どこ 葛\U000e0100",
        "پرسش\u200cها می\u200cروم \u06dd",
        "पक्षी क\u094d\u200dष",
        "🐦 ❤\ufe0f\u200d🔥 👩\u200d💻 1\ufe0f\u20e3 ©\ufe0f",
        "\U0001fae8 of a newer Unicode",
        "C:\\new\\x1b",
    ],
)
def test_ordinary_text_of_any_script_stays(text: str) -> None:
    assert to_line(text) == to_block(text) == to_message(text) == text


def test_escapes_look_as_in_python() -> None:
    assert to_line("a\0b\x1b[2J\nc\r\t\ud800\u202e\U000e0041") == r"a\x00b\x1b[2J\nc\r\t\ud800\u202e\U000e0041"
    assert to_line("ad\u200dmin x\ufe0f 🐦\u200d\u200d") == r"ad\u200dmin x\ufe0f 🐦\u200d\u200d"
    assert to_block("a\r\nb\rc\td") == "a\nb\\rc\td"
    assert to_message("failed:\n\nerror: forged\n  part") == "failed:\n\n  error: forged\n  part"
