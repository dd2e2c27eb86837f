"""Decoding compared with that of transformers, and the text of tokens that arrive one by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.families import named, save_family
from support.models import make_tokenizer

from finch_hub.engine.bases.base import Base, load_base
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


def test_each_row_has_the_room_that_it_has_alone(tiny_base: Base) -> None:
    """A context of 64, and prompts of 13 and 60 tokens."""
    tiny_base.model.config.max_position_embeddings = 64
    tiny_base.model.generation_config.eos_token_id = None
    config = GenerationConfig(max_new_tokens=100)
    prompts = [[11] * 13, [40] * 60, [7] * 64]
    together = collect(tiny_base, prompts, config)
    assert together == [collect(tiny_base, [prompt], config)[0] for prompt in prompts]
    assert [len(answer) for answer in together[1:]] == [4, 0]
    assert len(together[0]) > 4


@pytest.mark.parametrize("name", ["falcon-h1", "recurrent-gemma", "longrope", "gemma3", "gpt2"])
def test_rows_that_end_at_different_times_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Recurrent states, positions that depend on the length, a sliding window, and learned positions."""
    base = load_base(save_family(named(name), tmp_path), dtype="float32", device="cpu", cache=tmp_path)
    config = GenerationConfig(max_new_tokens=8)
    free = collect(base, PROMPTS[:3], config)
    base.model.generation_config.eos_token_id = free[1][3]
    together = collect(base, PROMPTS[:3], config)
    assert len(together[1]) < len(free[1])
    for prompt, found in zip(PROMPTS, together, strict=False):
        assert collect(base, [prompt], config) == [found]
        base.model(input_ids=torch.tensor([prompt]), use_cache=False)  # clears states that RecurrentGemma keeps
        theirs = base.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=8, do_sample=False,
            eos_token_id=sorted(end_tokens(base)), pad_token_id=base.tokenizer.pad_token_id,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert found == [token for token in theirs if token not in end_tokens(base)]


def test_an_input_is_computed_again_where_transformers_does(tmp_path: Path) -> None:
    """Phi 3 computes the whole input again when it becomes longer than the model was first trained on."""
    changes = {"rope_parameters": named("longrope").fields["rope_parameters"], "original_max_position_embeddings": 16}
    folder = save_family(named("phi3"), tmp_path, **changes)
    base = load_base(folder, dtype="float32", device="cpu", cache=tmp_path)
    prompt = list(range(30, 40))
    theirs = base.model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False,
        eos_token_id=sorted(end_tokens(base)), pad_token_id=base.tokenizer.pad_token_id,
    )[0, len(prompt) :].tolist()  # fmt: skip
    assert collect(base, [prompt], GenerationConfig(max_new_tokens=20))[0] == theirs


def test_a_model_without_a_cache_or_positions_is_decoded(tiny_base: Base) -> None:
    """Its forward lacks what others have, so the whole input is computed for every token."""
    expected = collect(tiny_base, PROMPTS, GenerationConfig(max_new_tokens=5))
    own = tiny_base.model.forward

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, use_cache: bool = False) -> Any:
        assert not use_cache
        return own(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)

    tiny_base.model.forward = forward
    assert collect(tiny_base, PROMPTS, GenerationConfig(max_new_tokens=5)) == expected


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
