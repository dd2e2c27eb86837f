"""Decoding: prompts in, tokens out, row by row as they come."""

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

    from finch_hub.engine.bases.loading import Base

Routed = Callable[[Sequence[int]], AbstractContextManager[None]]


def decode(
    base: Base, prompts: Sequence[Sequence[int]], config: GenerationConfig, *, seeds: Sequence[int], routed: Routed
) -> Iterator[tuple[int, int]]:
    """Continue each prompt until an end token or the length limit; yields (row, token) in order of the tokens.

    Rows that have ended leave the batch. With the same seed a row gets the same tokens whatever else is in the batch,
    but where float rounding, which depends on the batch's shape, decides between equals.

    Args:
        base: the model.
        prompts: token ids of each row, none of them empty.
        config: how to choose tokens.
        seeds: of each row; only used with a temperature.
        routed: gives the context in which the model is called for these rows, numbered as in `prompts`.

    """
    lengths = [len(prompt) for prompt in prompts]
    width = max(lengths)
    pad = base.tokenizer.pad_token_id
    # Padded on the left, so that every row's next token stands in the same column.
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=base.device)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=base.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    limit = min(config.max_new_tokens, base.context - width)
    ends = end_tokens(base)
    samplers = [torch.Generator().manual_seed(seed) for seed in seeds]
    # As a tensor: of a slice the head's products over a batch would copy its weight for every row (torch 2.13, CPU).
    last = torch.tensor([-1], device=base.device)
    cache = DynamicCache(config=base.model.config)
    rows = list(range(len(prompts)))
    for step in range(limit):
        with torch.no_grad(), routed(rows):
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
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if token not in ends:
                kept.append(place)
                yield row, token
        if not kept or step + 1 == limit:
            return
        if len(kept) < len(rows):
            index = torch.tensor(kept, device=base.device)
            cache.batch_select_indices(index)
            mask, positions, chosen = mask[index], positions[index], chosen[index.to(chosen.device)]
            rows = [rows[place] for place in kept]
        tokens = chosen.to(base.device).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1


def end_tokens(base: Base) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's, and those of the model's generation configuration."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(int(token) for token in (base.tokenizer.eos_token_id, *several) if token is not None)


def _choose(logits: Tensor, config: GenerationConfig, samplers: Sequence[torch.Generator]) -> Tensor:
    """Choose each row's token from [rows, vocabulary]: the likeliest, or one of the nucleus (arXiv 1904.09751)."""
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float().cpu() / config.temperature, dim=-1)
    if config.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays while those before it sum to less than top_p, so the likeliest always stays.
        ordered[ordered.cumsum(dim=-1) - ordered >= config.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    drawn = [torch.multinomial(row, 1, generator=sampler) for row, sampler in zip(probabilities, samplers, strict=True)]
    return torch.cat(drawn)


class TextStream:
    """Turns tokens into pieces of text; a character whose bytes are spread over tokens comes when it is whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens before `_start` are no longer decoded; those from there to `_said` only give context to the next.
        self._start = 0
        self._said = 0

    def add(self, token: int) -> str:
        """Return the text that this token completes, which may be none."""
        self._tokens.append(token)
        return self._piece(final=False)

    def end(self) -> str:
        """Return what is still held back."""
        return self._piece(final=True)

    def _piece(self, *, final: bool) -> str:
        before = self._decode(self._tokens[self._start : self._said])
        after = self._decode(self._tokens[self._start :])
        if not final and (after.endswith("\N{REPLACEMENT CHARACTER}") or len(after) <= len(before)):
            return ""
        self._start, self._said = self._said, len(self._tokens)
        return after[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
