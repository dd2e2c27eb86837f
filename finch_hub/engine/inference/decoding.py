"""Decoding of prompts to tokens in a batch, and of tokens to text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from finch_hub.specs.generation import GenerationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finch_hub.engine.bases.base import Base

Route = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Function that returns the context in which the model computes these rows."""


def decode(
    base: Base, prompts: Sequence[Sequence[int]], config: GenerationConfig, *, seeds: Sequence[int], route: Route
) -> Iterator[tuple[int, int]]:
    """Continue each prompt until an end token or the length limit. Yield (row, token) in the order of the tokens.

    Rows that have ended leave the batch. A row's tokens depend on its seed and not on the other rows, except where the
    rounding, which depends on the batch's shape, decides between equal logits.

    Args:
        prompts: token ids of each row, at least one.
        seeds: seed of each row, only used with a temperature.
        route: function that returns the context in which the model computes these rows, numbered as in `prompts`.
    """
    lengths = [len(prompt) for prompt in prompts]
    width = max(lengths)
    pad = base.tokenizer.pad_token_id
    # Padding is on the left, so that the next token of every row is in the same column.
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=base.device)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=base.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    limit = min(config.max_new_tokens, base.context - width)
    ends = end_tokens(base)
    samplers = [torch.Generator().manual_seed(seed) for seed in seeds]
    # With a slice instead of a tensor, the head would copy its weight for every row (torch 2.13, CPU).
    last = torch.tensor([-1], device=base.device)
    cache = DynamicCache(config=base.model.config)
    rows = list(range(len(prompts)))
    for step in range(limit):
        with torch.no_grad(), route(rows):
            output = base.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=last,
            )
        chosen = _choose(output.logits[:, -1], config, [samplers[row] for row in rows])
        kept = []
        for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if token not in ends:
                kept.append(index)
                yield row, token
        if not kept or step + 1 == limit:
            return
        if len(kept) < len(rows):
            indices = torch.tensor(kept, device=base.device)
            cache.batch_select_indices(indices)
            mask, positions, chosen = mask[indices], positions[indices], chosen[indices.to(chosen.device)]
            rows = [rows[index] for index in kept]
        tokens = chosen.to(base.device).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1


def end_tokens(base: Base) -> frozenset[int]:
    """Return the tokens that end an answer, from the tokenizer and the model's generation configuration."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    configured_tokens = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(int(token) for token in (base.tokenizer.eos_token_id, *configured_tokens) if token is not None)


def _choose(logits: Tensor, config: GenerationConfig, samplers: Sequence[torch.Generator]) -> Tensor:
    """Choose each row's token from [rows, vocabulary]: most likely, or a sample of the nucleus (arXiv 1904.09751)."""
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float().cpu() / config.temperature, dim=-1)
    if config.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays if those before it sum to less than top_p, so the most likely token always stays.
        ordered[ordered.cumsum(dim=-1) - ordered >= config.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    drawn = [torch.multinomial(row, 1, generator=sampler) for row, sampler in zip(probabilities, samplers, strict=True)]
    return torch.cat(drawn)


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
