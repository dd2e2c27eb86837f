"""Text of tokens that arrive one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import make_tokenizer

from finch_hub.engine.inference.text_stream import TextStream

TOKENIZER = make_tokenizer()


@settings(deadline=None)
@given(st.text(max_size=40))
def test_pieces_join_to_the_text(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    stream = TextStream(TOKENIZER)
    pieces = [stream.add(token) for token in tokens]
    assert "".join([*pieces, stream.end()]) == TOKENIZER.decode(tokens, skip_special_tokens=True)


def test_character_of_several_tokens_is_returned_when_complete() -> None:
    tokens = TOKENIZER("a🐦b", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 6  # the bird is four bytes, which the tokenizer does not merge
    stream = TextStream(TOKENIZER)
    assert [stream.add(token) for token in tokens] == ["a", "", "", "", "🐦", "b"]
    half = TextStream(TOKENIZER)
    assert [half.add(token) for token in tokens[:3]] == ["a", "", ""]
    assert half.end() == "\N{REPLACEMENT CHARACTER}"
