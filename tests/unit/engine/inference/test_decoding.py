"""Decoding compared with that of transformers, and the text of tokens that arrive one by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import make_tokenizer

from finch_hub.engine.bases.base import Base
from finch_hub.engine.inference.decoding import TextStream, _choose, decode, end_tokens
from finch_hub.specs.generation import GenerationConfig

TOKENIZER = make_tokenizer()
PROMPTS = [[11, 12, 13], [40, 41, 42, 43, 44, 45, 46, 47], [99], [200, 7, 7, 7, 120]]


def collect(
    base: Base, prompts: Sequence[Sequence[int]], config: GenerationConfig, seeds: Sequence[int] | None = None
) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    seeds = seeds or [0] * len(prompts)
    for row, token in decode(base, prompts, config, seeds=seeds, route=lambda rows: nullcontext()):
        found[row].append(token)
    return found


def test_greedy_tokens_equal_those_of_transformers(tiny_bases: Base) -> None:
    config = GenerationConfig(max_new_tokens=20)
    together = collect(tiny_bases, PROMPTS, config)
    for prompt, found in zip(PROMPTS, together, strict=True):
        theirs = tiny_bases.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
        )[0, len(prompt) :].tolist()
        ended = [token for token in theirs if token not in end_tokens(tiny_bases)]
        assert found == ended


def test_end_of_a_row_does_not_change_the_others(tiny_base: Base) -> None:
    config = GenerationConfig(max_new_tokens=30)
    free = collect(tiny_base, PROMPTS, config)
    # The third token of the second row now ends an answer.
    stop = free[1][2]
    tiny_base.model.generation_config.eos_token_id = [tiny_base.tokenizer.eos_token_id, stop]
    cut = collect(tiny_base, PROMPTS, config)
    assert len(cut[1]) <= 2
    for before, after in zip(free, cut, strict=True):
        assert after == before[: before.index(stop)] if stop in before else after == before


def test_route_gets_the_rows_that_are_still_in_the_batch(tiny_base: Base) -> None:
    free = collect(tiny_base, PROMPTS, GenerationConfig(max_new_tokens=4))
    tiny_base.model.generation_config.eos_token_id = free[0][1]
    seen: list[tuple[int, ...]] = []

    def route(rows: Sequence[int]) -> nullcontext[None]:
        seen.append(tuple(rows))
        return nullcontext()

    list(decode(tiny_base, PROMPTS, GenerationConfig(max_new_tokens=4), seeds=[0] * 4, route=route))
    assert seen[0] == (0, 1, 2, 3)
    assert 0 not in seen[-1]


def test_answer_ends_with_the_context(tiny_base: Base) -> None:
    prompt = [50] * (tiny_base.context - 3)
    tiny_base.model.generation_config.eos_token_id = None
    assert len(collect(tiny_base, [prompt], GenerationConfig(max_new_tokens=50))[0]) <= 3


def test_samples_depend_on_their_seed_and_not_on_other_rows(tiny_base: Base) -> None:
    config = GenerationConfig(max_new_tokens=12, temperature=1.0, top_p=0.9)
    together = collect(tiny_base, PROMPTS, config, [1, 2, 3, 4])
    assert together == collect(tiny_base, PROMPTS, config, [1, 2, 3, 4])
    assert together != collect(tiny_base, PROMPTS, config, [5, 6, 7, 8])
    assert [collect(tiny_base, [p], config, [n])[0] for n, p in enumerate(PROMPTS, start=1)] == together


@pytest.mark.parametrize(("top_p", "allowed"), [(1.0, {0, 1, 2, 3}), (0.6, {0, 1}), (0.5, {0}), (0.01, {0})])
def test_nucleus_has_the_most_likely_tokens_that_reach_top_p(top_p: float, allowed: set[int]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(400, 4)
    samplers = [torch.Generator().manual_seed(seed) for seed in range(400)]
    drawn = _choose(logits, GenerationConfig(temperature=1.0, top_p=top_p), samplers).tolist()
    assert set(drawn) == allowed
    if top_p == 0.6:  # what remains is in the same proportion, 5 to 3
        assert 0.5 < drawn.count(0) / 400 < 0.75


def test_low_temperature_prefers_the_most_likely_token() -> None:
    logits = torch.tensor([1.0, 0.0]).expand(400, 2)
    counts = []
    for temperature in (0.2, 1.0, 5.0):
        samplers = [torch.Generator().manual_seed(seed) for seed in range(400)]
        counts.append(int((_choose(logits, GenerationConfig(temperature=temperature), samplers) == 0).sum()))
    assert counts[0] > counts[1] > counts[2] > 180


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
