"""Conversion of a stream of tokens to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextStream:
    """Text of tokens that arrive one by one. A character of several tokens is returned when it is complete."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens before `_start` are not decoded again. Those up to `_returned` only give context to the next ones.
        self._start = 0
        self._returned = 0

    def add(self, token: int) -> str:
        """Return the text that this token completes, which can be empty."""
        self._tokens.append(token)
        return self._next_piece(is_final=False)

    def end(self) -> str:
        """Return the text of an incomplete character."""
        return self._next_piece(is_final=True)

    def _next_piece(self, *, is_final: bool) -> str:
        before = self._decode(self._tokens[self._start : self._returned])
        after = self._decode(self._tokens[self._start :])
        if not is_final and (after.endswith("\N{REPLACEMENT CHARACTER}") or len(after) <= len(before)):
            return ""
        self._start, self._returned = self._returned, len(self._tokens)
        return after[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
