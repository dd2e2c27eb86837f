"""Decoding of prompts to tokens in a batch, and of tokens to text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from finch_hub import errors
from finch_hub.engine.bases.rope import depends_on_length, reset_rope, switch_length
from finch_hub.engine.data.chat import ChatTemplate
from finch_hub.engine.data.row_time import limit_tokenizing
from finch_hub.specs.generation import GenerationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finch_hub.engine.bases.base import Base

Route = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Function that returns the context in which the model computes these rows."""


def decode(
    base: Base, prompts: Sequence[Sequence[int]], config: GenerationConfig, *, seeds: Sequence[int], route: Route
) -> Iterator[tuple[int, int]]:
    """Continue each prompt until an end token or the length limit. Yield (row, token) in the order of the tokens.

    A row's tokens depend on its seed and not on the other rows, except where the rounding, which depends on the batch's
    shape, decides between equal logits. If the rows of a batch would change each other, they are computed one by one.

    Args:
        prompts: token ids of each row, at least one.
        seeds: seed of each row, only used with a temperature.
        route: function that returns the context in which the model computes these rows, numbered as in `prompts`.
    """
    limits = [min(config.max_new_tokens, base.context - len(prompt)) for prompt in prompts]
    samplers = [torch.Generator().manual_seed(seed) for seed in seeds]
    if _can_share_batch(base.model):
        yield from _decode_batch(base, prompts, limits, config, samplers, route)
        return
    for row, prompt in enumerate(prompts):
        alone = functools.partial(route, [row])
        for token in _decode_row(base, prompt, limits[row], config, samplers[row], alone):
            yield row, token


def _can_share_batch(model: PreTrainedModel) -> bool:
    """Return whether rows of different lengths can be computed together, and leave their batch at different times.

    States of recurrent layers see the padding, and their cache cannot drop rows.
    """
    layers = DynamicCache(config=model.config).layers
    has_attention_only = not any(hasattr(layer, "recurrent_states") for layer in layers)
    return has_attention_only and "past_key_values" in _parameters(model) and not depends_on_length(model)


def _decode_batch(
    base: Base,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    config: GenerationConfig,
    samplers: Sequence[torch.Generator],
    route: Route,
) -> Iterator[tuple[int, int]]:
    """Continue all prompts together. Rows that have ended leave the batch."""
    lengths = [len(prompt) for prompt in prompts]
    width = max(lengths)
    pad = base.tokenizer.pad_token_id
    # Padding is on the left, so that the next token of every row is in the same column.
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=base.device)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=base.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    ends = end_tokens(base)
    cache = DynamicCache(config=base.model.config)
    rows = list(range(len(prompts)))
    for step in range(max(limits)):
        with torch.no_grad(), route(rows):
            logits = _next_logits(base.model, tokens, positions, mask, cache)
        chosen = _choose(logits, config, [samplers[row] for row in rows])
        kept = []
        for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if token not in ends and step < limits[row]:
                yield row, token
                if step + 1 < limits[row]:
                    kept.append(index)
        if not kept:
            return
        if len(kept) < len(rows):
            indices = torch.tensor(kept, device=base.device)
            cache.batch_select_indices(indices)
            mask, positions, chosen = mask[indices], positions[indices], chosen[indices.to(chosen.device)]
            rows = [rows[index] for index in kept]
        tokens = chosen.to(base.device).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1


def _decode_row(
    base: Base,
    prompt: Sequence[int],
    limit: int,
    config: GenerationConfig,
    sampler: torch.Generator,
    route: Callable[[], AbstractContextManager[None]],
) -> Iterator[int]:
    """Continue one prompt."""
    model, ends = base.model, end_tokens(base)
    can_cache, switch = "past_key_values" in _parameters(model), switch_length(model)
    reset_rope(model)
    _forget_states(model)
    ids = torch.tensor(prompt, device=base.device)
    cache, num_cached = DynamicCache(config=model.config), 0
    for _ in range(limit):
        if not can_cache or (switch is not None and num_cached <= switch < len(ids)):
            cache, num_cached = DynamicCache(config=model.config), 0
        positions = torch.arange(num_cached, len(ids), device=base.device)
        with torch.no_grad(), route():
            logits = _next_logits(model, ids[None, num_cached:], positions[None], None, cache if can_cache else None)
        num_cached = len(ids)
        chosen = _choose(logits, config, [sampler])
        token = int(chosen)
        if token in ends:
            return
        yield token
        ids = torch.cat([ids, chosen.to(base.device)])


def _forget_states(model: PreTrainedModel) -> None:
    """Remove the states of an earlier input, which RecurrentGemma keeps in its modules.

    It continues from them if a prompt has one token only.
    """
    for module in model.modules():
        for name in ("conv1d_state", "recurrent_states"):
            if isinstance(getattr(module, name, None), Tensor):
                setattr(module, name, None)


def _next_logits(
    model: PreTrainedModel, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: DynamicCache | None
) -> Tensor:
    """Return the logits [rows, vocabulary] of the token after the last column."""
    options: dict[str, Any] = {
        "position_ids": positions,
        # With a slice instead of a tensor, the head would copy its weight for every row (torch 2.13, CPU).
        "logits_to_keep": torch.tensor([-1], device=tokens.device),
        "past_key_values": cache,
    }
    parameters = _parameters(model)
    known = {name: value for name, value in options.items() if name in parameters}
    output = model(input_ids=tokens, attention_mask=mask, use_cache=cache is not None, **known)
    logits: Tensor = output.logits[:, -1]
    return logits


def _parameters(model: PreTrainedModel) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def end_tokens(base: Base) -> frozenset[int]:
    """Return the tokens that end an answer, from the chat template, the tokenizer and the generation configuration."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    configured_tokens = configured if isinstance(configured, (list, tuple)) else [configured]
    with limit_tokenizing("the ends of answers"):
        stop_tokens = ChatTemplate(base.tokenizer).stop_tokens
    return stop_tokens | {int(token) for token in configured_tokens if token is not None}


def _choose(logits: Tensor, config: GenerationConfig, samplers: Sequence[torch.Generator]) -> Tensor:
    """Choose each row's token from [rows, vocabulary]: most likely, or a sample of the nucleus (arXiv 1904.09751).

    Raises:
        Diverged: a score is NaN, or the largest one is infinite.
    """
    most_likely = logits.argmax(dim=-1)  # where NaN and infinity count as the largest
    if not logits.gather(-1, most_likely.unsqueeze(-1)).isfinite().all():
        what = "the model computed scores of tokens that are not finite"
        raise errors.Diverged(f"{what} (use another adapter, or another dtype of the base)")
    if config.temperature == 0:
        return most_likely
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
