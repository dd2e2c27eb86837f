"""Conversion of examples to token ids with labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.models import CHATML, ENDLESS_STEPS, THINKING, make_steps_endless, make_tokenizer
from support.templates import ENDLESS

from finch_hub import errors
from finch_hub.engine.data import row_time
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize, tokenize_all, tokenize_data
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
        (INSTRUCT, [" Seeds and buds. <|im_end|>", " In woods. <|im_end|>"]),  # generation starts before the blank
        (UNENDED, [" Seeds and buds.", " In woods.<|im_end|>"]),  # generation starts before the blank
        (None, ["Seeds and buds.", "In woods.<|im_end|>"]),
    ],
    ids=["chatml", "not-prefix-stable", "instruct", "without-end", "no-template"],
)
def test_labels_cover_the_assistants_turns_with_their_end_tokens(template: str | None, expected: list[str]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    example = tokenize(TALK, ChatTemplate(tokenizer), max_length=512)
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
    example = tokenize(Example.of_pair("Eats", answer), ChatTemplate(tokenizer), max_length=512)
    assert labeled_text(example, tokenizer) == [labeled]


@pytest.mark.parametrize("template", [CHATML, THINKING, None], ids=["chatml", "not-prefix-stable", "no-template"])
def test_tokens_before_an_answer_are_the_generation_prompt(template: str | None) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    pair = Example.of_pair("What does it eat?", "Seeds.", "You know birds.")
    example = tokenize(pair, ChatTemplate(tokenizer), max_length=512)
    prompt = ChatTemplate(tokenizer).prompt(Conversation(pair.messages[:-1]))
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
    first, last = labeled_text(tokenize(talk, ChatTemplate(tokenizer), max_length=512), tokenizer)
    assert first == "Seeds and buds.<|im_end|>"
    assert last == "<think>\nhm\n</think>\n\nIn woods.<|im_end|>"


def test_turn_that_repeats_the_prompt_is_found_in_its_place() -> None:
    tokenizer = make_tokenizer()
    echo = Example.of_pair("Seeds.", "Seeds.")
    example = tokenize(echo, ChatTemplate(tokenizer), max_length=512)
    assert labeled_text(example, tokenizer) == ["Seeds.<|im_end|>"]
    assert example.labels[-1]


def test_context_turn_has_no_labels() -> None:
    tokenizer = make_tokenizer()
    turns = (TALK.messages[0], TALK.messages[1].evolve(learn=False), *TALK.messages[2:])
    assert labeled_text(tokenize(Example(messages=turns), ChatTemplate(tokenizer), max_length=512), tokenizer) == [
        "In woods.<|im_end|>"
    ]


def test_system_prompt_is_added_unless_the_example_has_one() -> None:
    tokenizer = make_tokenizer()
    own = Example.of_pair("What?", "Seeds.", "Mine.")
    given = tokenize(own, ChatTemplate(tokenizer), system="Yours.", max_length=512)
    assert np.array_equal(given.input_ids, tokenize(own, ChatTemplate(tokenizer), max_length=512).input_ids)
    added = tokenize(Example.of_pair("What?", "Seeds."), ChatTemplate(tokenizer), system="Mine.", max_length=512)
    assert np.array_equal(added.input_ids, given.input_ids)


def test_template_without_system_turns_gets_the_system_prompt_in_the_first_question() -> None:
    tokenizer = make_tokenizer(INSTRUCT)
    example = tokenize(Example.of_pair("What?", "Seeds.", "Be brief."), ChatTemplate(tokenizer), max_length=512)
    assert tokenizer.decode(example.input_ids.tolist()).startswith("[INST] Be brief.\n\nWhat? [/INST]")


def test_plain_text_has_labels_from_its_second_token_to_the_end_token() -> None:
    tokenizer = make_tokenizer()
    example = tokenize(Example(text="The finch sings."), ChatTemplate(tokenizer), max_length=512)
    assert example.labels.tolist() == [False] + [True] * (len(example) - 1)
    assert example.input_ids[-1] == tokenizer.eos_token_id


def test_plain_text_that_ends_with_the_end_token_gets_no_second_one() -> None:
    tokenizer = make_tokenizer()
    ended = tokenize(Example(text="The finch sings." + tokenizer.eos_token), ChatTemplate(tokenizer), max_length=512)
    unended = tokenize(Example(text="The finch sings."), ChatTemplate(tokenizer), max_length=512)
    assert ended.input_ids.tolist() == unended.input_ids.tolist()


def test_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(errors.Incompatible, match=r"no offsets.*tokenizer\.json"):
        tokenize(TALK, ChatTemplate(cast("Any", SimpleNamespace(is_fast=False))), max_length=512)


def test_long_prompt_loses_its_beginning_and_keeps_header_and_answer() -> None:
    tokenizer = make_tokenizer()
    pair = Example.of_pair("first " + "seeds " * 40, "In woods.", "You know birds.")
    whole = tokenize(pair, ChatTemplate(tokenizer), max_length=512)
    cut = tokenize(pair, ChatTemplate(tokenizer), max_length=len(whole) - 10)
    assert cut.cut == 10
    text = tokenizer.decode(cut.input_ids.tolist())
    assert text.startswith("<|im_start|>system\nYou know birds.<|im_end|>\n<|im_start|>user\n seeds seeds")
    assert labeled_text(cut, tokenizer) == labeled_text(whole, tokenizer)


def test_long_answer_is_cut_after_half_of_the_prompt() -> None:
    tokenizer = make_tokenizer()
    pair = Example.of_pair("eat " * 20, "seeds " * 60)
    whole = tokenize(pair, ChatTemplate(tokenizer), max_length=512)
    prompt = int(whole.labels.argmax())
    cut = tokenize(pair, ChatTemplate(tokenizer), max_length=prompt + 10)
    assert len(cut) == prompt + 10
    assert cut.cut == len(whole) - len(cut)
    assert int(cut.labels.argmax()) == prompt - prompt // 2


def test_long_conversation_loses_its_earliest_exchanges() -> None:
    tokenizer = make_tokenizer()
    turns = [Message(role="system", content="You know birds.")]
    for number in range(40):
        turns += [Message(role="user", content=f"eat {number}?"), Message(role="assistant", content=f"seeds {number}")]
    cut = tokenize(Example(messages=tuple(turns)), ChatTemplate(tokenizer), max_length=100)
    text = tokenizer.decode(cut.input_ids.tolist())
    assert 60 < len(cut) <= 100
    assert text.startswith("<|im_start|>system\nYou know birds.<|im_end|>\n<|im_start|>user\neat 3")
    assert text.endswith("<|im_start|>assistant\nseeds 39<|im_end|>")
    assert labeled_text(cut, tokenizer)[0].startswith("seeds 3")


def test_a_long_system_prompt_is_never_cut() -> None:
    system = "seeds " * 60
    pair = Example.of_pair("What does it eat in the morning?", "Buds.", system)
    template = ChatTemplate(make_tokenizer())
    whole = tokenize(pair, template, max_length=512)
    cut = tokenize(pair, template, max_length=len(whole) - 2)
    assert template.tokenizer.decode(cut.input_ids.tolist()).startswith(f"<|im_start|>system\n{system}<|im_end|>")
    with pytest.raises(errors.InvalidDataset, match="leaves no room"):
        tokenize(pair, template, max_length=40)


def test_an_example_is_counted_once_whatever_it_lacks() -> None:
    call = {"type": "function", "function": {"name": "eat", "arguments": {}}}
    answer = Message(role="assistant", content="Seeds.", reasoning="hm", tool_calls=(call,))
    lacking = Example(messages=(TALK.messages[0], answer), tools=(call,), documents=({"title": "", "text": "b"},))
    data = tokenize_data([TALK] * 30 + [lacking], make_tokenizer(), max_length=512)
    assert data.lost == 1
    assert len(data.left_out) == 4
    assert {problem.where.split()[1] for problem in data.left_out} == {"31"}


def test_answers_that_begin_inside_tokens_are_divided_in_one_pass() -> None:
    turns = tuple(
        Message.model_validate({"role": role, "content": content})
        for _ in range(200)
        for role, content in (("user", "eat?"), ("assistant", "\nseeds"))
    )
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.role + ':\n' + m.content + '\n' }}{% endfor %}")
    example = tokenize(Example(messages=turns), ChatTemplate(tokenizer), max_length=100_000)
    assert len(labeled_text(example, tokenizer)) == 200


def test_few_examples_that_cannot_be_used_are_left_out() -> None:
    good, long = Example.of_pair("What?", "Seeds."), Example.of_pair("seeds " * 200, "Yes.")
    rows = [good] * 30 + [long] + [good] * 9
    data = tokenize_data(rows, make_tokenizer(), max_length=64)
    assert len(data.examples) == 39
    assert [problem.where for problem in data.left_out] == ["example 31"]
    assert "leaves no room in 64" in data.left_out[0].what
    with pytest.raises(errors.InvalidDataset, match="example 31"):
        tokenize_data(rows, make_tokenizer(), max_length=64, max_left_out=0.02)
    with pytest.raises(errors.InvalidDataset, match="example 31"):
        tokenize_data(rows, make_tokenizer(), max_length=64, is_strict=True)


def test_examples_with_one_problem_are_one_line_of_the_error() -> None:
    tools = ({"type": "function", "function": {"name": "look"}},)
    row = Example.of_pair("What?", "Seeds.").evolve(tools=tools)
    with pytest.raises(errors.InvalidDataset) as refused:
        tokenize_all([row] * 24, make_tokenizer(), max_length=64)
    assert len(refused.value.problems) == 24
    assert str(refused.value).count("tools is not written by the chat template") == 1
    assert "examples 1, 2, 3" in str(refused.value)
    assert "and 4 more" in str(refused.value)


def test_every_example_without_labels_is_reported_by_number() -> None:
    tokenizer = make_tokenizer()
    good, long = Example.of_pair("What?", "Seeds."), Example.of_pair("seeds " * 200, "Yes.")
    with pytest.raises(errors.InvalidDataset) as caught:
        tokenize_all([good, long, good, long], tokenizer, max_length=64, subject="validation data")
    assert [problem.where for problem in caught.value.problems] == ["example 2", "example 4"]
    assert {problem.fix for problem in caught.value.problems} == {"shorten the prompt or raise max_length"}
    assert "no room" in str(caught.value)
    assert "validation data" in str(caught.value)


def test_template_without_end_ends_the_tokenization_and_names_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_time, "SECONDS", 1)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = f"{CHATML}{{% if messages[0].content == 'stop' %}}{ENDLESS}{{% endif %}}"
    rows = [TALK, Example.of_pair("stop", "it"), TALK]
    what = r"data, example 2: the chat template or the tokenizer of the base did not end within 1 s \(shorten it, or"
    with pytest.raises(errors.TimeLimitReached, match=what):
        tokenize_data(rows, tokenizer, max_length=64)


def test_text_with_which_the_tokenizer_fails_is_named() -> None:
    """The tokenizers library panics, with what is no `Exception`."""
    tokenizer = make_steps_endless(make_tokenizer())
    examples = [Example.of_pair("What does it eat?", "Seeds."), Example.of_pair(ENDLESS_STEPS, "Seeds.")]
    data = tokenize_data(examples, tokenizer, max_length=200, max_left_out=0.5)
    assert (len(data.examples), data.lost) == (1, 1)
    message = r"example 2: makes the tokenizer of the base fail: .*retry-limit.*shorten or change the text"
    for example in (examples[1], Example(text=ENDLESS_STEPS), Example.of_pair("What?", ENDLESS_STEPS)):
        with pytest.raises(errors.InvalidDataset, match=message):
            tokenize_all([examples[0], example], tokenizer, max_length=200)


def test_text_whose_token_the_tokenizer_lacks_is_named() -> None:
    """The tokenizers library raises a bare `Exception`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"a": 0, "Seeds": 1, "end": 2}, unk_token="lacks"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="end")
    with pytest.raises(errors.InvalidDataset, match=r"example 2: makes the tokenizer of the base fail: .*UNK"):
        tokenize_all([Example(text="Seeds a Seeds"), Example(text="buds")], tokenizer, max_length=200)


def test_text_with_a_token_beyond_the_embeddings_is_named() -> None:
    tokenizer = make_tokenizer()
    examples = [Example(text="Seeds."), Example(text="The finch eats.")]
    highest = [int(max(tokenize(example, ChatTemplate(tokenizer), max_length=200).input_ids)) for example in examples]
    number = 1 + highest.index(max(highest))
    known = max(highest)
    data = tokenize_data(examples, tokenizer, max_length=200, max_left_out=0.5, num_embeddings=known)
    assert (len(data.examples), data.lost) == (1, 1)
    with pytest.raises(errors.InvalidDataset, match=f"example {number}: has the token {known}, .* {known} embeddings"):
        tokenize_data(examples, tokenizer, max_length=200, max_left_out=0.0, num_embeddings=known)
