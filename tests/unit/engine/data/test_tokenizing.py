"""Conversion of examples to token ids with labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.models import CHATML, THINKING, make_tokenizer

from finch_hub import errors
from finch_hub.engine.data import chat
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize, tokenize_all
from finch_hub.specs.examples import Example, Message

# As Llama 2's: turns end with the end-of-text token, text has blanks around it, and there are no system turns.
INSTRUCT = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system turn') }}"
    "{% elif message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
UNENDED = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
TALK = Example(
    messages=(
        Message(role="user", content="What does it eat?"),
        Message(role="assistant", content="Seeds and buds."),
        Message(role="user", content="Where does it live?"),
        Message(role="assistant", content="In woods."),
    )
)


def labeled_text(example: TokenizedExample, tokenizer: Any) -> list[str]:
    """Return the runs of tokens with labels as text."""
    runs: list[list[int]] = []
    before = False
    for token, label in zip(example.input_ids.tolist(), example.labels.tolist(), strict=True):
        if label and not before:
            runs.append([])
        if label:
            runs[-1].append(token)
        before = label
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["Seeds and buds.<|im_end|>", "In woods.<|im_end|>"]),
        (THINKING, ["Seeds and buds.<|im_end|>", "In woods.<|im_end|>"]),
        (INSTRUCT, ["Seeds and buds. <|im_end|>", "In woods. <|im_end|>"]),
        (UNENDED, [" Seeds and buds.", " In woods.<|im_end|>"]),  # generation starts before the blank
        (None, ["Seeds and buds.", "In woods.<|im_end|>"]),
    ],
    ids=["chatml", "not-prefix-stable", "instruct", "without-end", "no-template"],
)
def test_labels_cover_the_assistants_turns_with_their_end_tokens(template: str | None, expected: list[str]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    example = tokenize(TALK, tokenizer, max_length=512)
    assert labeled_text(example, tokenizer) == expected


@pytest.mark.parametrize(
    ("template", "answer", "labeled"),
    [
        (INSTRUCT, "buds.", " buds. <|im_end|>"),  # the blank and the b are one token
        ("{% for message in messages %}{{ message.content + 'ds\\n' }}{% endfor %}", "bu", "buds<|im_end|>"),
    ],
    ids=["begin", "end"],
)
def test_token_that_only_a_part_of_the_turn_is_in_has_a_label(template: str, answer: str, labeled: str) -> None:
    tokenizer = make_tokenizer(template)
    example = tokenize(Example.of_pair("Eats", answer), tokenizer, max_length=512)
    assert labeled_text(example, tokenizer) == [labeled]


@pytest.mark.parametrize("template", [CHATML, THINKING, None], ids=["chatml", "not-prefix-stable", "no-template"])
def test_tokens_before_an_answer_are_the_generation_prompt(template: str | None) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    pair = Example.of_pair("What does it eat?", "Seeds.", "You know birds.")
    example = tokenize(pair, tokenizer, max_length=512)
    prompt = chat.render(tokenizer, pair.messages[:-1], generation=True)
    first = int(example.labels.argmax())
    assert tokenizer.decode(example.input_ids[:first].tolist()) == prompt


def test_reasoning_has_labels_in_the_last_turn_only() -> None:
    tokenizer = make_tokenizer(THINKING)
    talk = Example(
        messages=tuple(
            message.evolve(content=f"<think>\nhm\n</think>\n\n{message.content}")
            if message.role == "assistant"
            else message
            for message in TALK.messages
        )
    )
    first, last = labeled_text(tokenize(talk, tokenizer, max_length=512), tokenizer)
    assert first == "Seeds and buds.<|im_end|>"
    assert last == "hm\n</think>\n\nIn woods.<|im_end|>"


def test_turn_that_repeats_the_prompt_is_found_in_its_place() -> None:
    tokenizer = make_tokenizer()
    echo = Example.of_pair("Seeds.", "Seeds.")
    example = tokenize(echo, tokenizer, max_length=512)
    assert labeled_text(example, tokenizer) == ["Seeds.<|im_end|>"]
    assert example.labels[-1]


def test_context_turn_has_no_labels() -> None:
    tokenizer = make_tokenizer()
    turns = (TALK.messages[0], TALK.messages[1].evolve(learn=False), *TALK.messages[2:])
    assert labeled_text(tokenize(Example(messages=turns), tokenizer, max_length=512), tokenizer) == [
        "In woods.<|im_end|>"
    ]


def test_system_prompt_is_added_unless_the_example_has_one() -> None:
    tokenizer = make_tokenizer()
    own = Example.of_pair("What?", "Seeds.", "Mine.")
    given = tokenize(own, tokenizer, system="Yours.", max_length=512)
    assert np.array_equal(given.input_ids, tokenize(own, tokenizer, max_length=512).input_ids)
    added = tokenize(Example.of_pair("What?", "Seeds."), tokenizer, system="Mine.", max_length=512)
    assert np.array_equal(added.input_ids, given.input_ids)


def test_template_without_system_turns_gets_the_system_prompt_in_the_first_question() -> None:
    tokenizer = make_tokenizer(INSTRUCT)
    example = tokenize(Example.of_pair("What?", "Seeds.", "Be brief."), tokenizer, max_length=512)
    assert tokenizer.decode(example.input_ids.tolist()).startswith("[INST] Be brief.\n\nWhat? [/INST]")


def test_plain_text_has_labels_from_its_second_token_to_the_end_token() -> None:
    tokenizer = make_tokenizer()
    example = tokenize(Example(text="The finch sings."), tokenizer, max_length=512)
    assert example.labels.tolist() == [False] + [True] * (len(example) - 1)
    assert example.input_ids[-1] == tokenizer.eos_token_id


def test_plain_text_that_ends_with_the_end_token_gets_no_second_one() -> None:
    tokenizer = make_tokenizer()
    ended = tokenize(Example(text="The finch sings." + tokenizer.eos_token), tokenizer, max_length=512)
    unended = tokenize(Example(text="The finch sings."), tokenizer, max_length=512)
    assert ended.input_ids.tolist() == unended.input_ids.tolist()


def test_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(errors.Incompatible, match=r"no offsets.*tokenizer\.json"):
        tokenize(TALK, SimpleNamespace(is_fast=False), max_length=512)


def test_long_prompt_loses_its_beginning_and_keeps_the_answer() -> None:
    tokenizer = make_tokenizer()
    pair = Example.of_pair("seeds " * 40, "In woods.")
    whole = tokenize(pair, tokenizer, max_length=512)
    cut = tokenize(pair, tokenizer, max_length=len(whole) - 10)
    assert cut.cut == 10
    assert np.array_equal(cut.input_ids, whole.input_ids[10:])
    assert labeled_text(cut, tokenizer) == labeled_text(whole, tokenizer)


def test_long_answer_is_cut_after_half_of_the_prompt() -> None:
    tokenizer = make_tokenizer()
    pair = Example.of_pair("What does it eat?", "seeds " * 60)
    whole = tokenize(pair, tokenizer, max_length=512)
    prompt = int(whole.labels.argmax())
    cut = tokenize(pair, tokenizer, max_length=prompt + 10)
    assert len(cut) == prompt + 10
    assert cut.cut == len(whole) - len(cut)
    assert int(cut.labels.argmax()) == prompt - prompt // 2


def test_every_example_without_labels_is_reported_by_number() -> None:
    tokenizer = make_tokenizer()
    good, long = Example.of_pair("What?", "Seeds."), Example.of_pair("seeds " * 200, "Yes.")
    with pytest.raises(errors.InvalidDataset) as caught:
        tokenize_all([good, long, good, long], tokenizer, max_length=64, subject="validation data")
    assert [problem.where for problem in caught.value.problems] == ["example 2", "example 4"]
    assert {problem.fix for problem in caught.value.problems} == {"shorten the prompt or raise max_length"}
    assert "no room" in str(caught.value)
    assert "validation data" in str(caught.value)
