"""Examples as a model sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub.engine.bases.tokenizer import load_tokenizer
from finch_hub.engine.data.chat import ChatTemplate
from finch_hub.engine.data.preview import preview_example
from finch_hub.engine.data.tokenizing import tokenize
from finch_hub.specs.examples import Example, Message
from finch_hub.specs.previews import PreviewRow


@pytest.fixture(scope="module")
def template(tiny_folder: Path) -> ChatTemplate:
    return ChatTemplate(load_tokenizer(tiny_folder))


def talk(*turns: str) -> Example:
    roles = ("user", "assistant")
    return Example(messages=tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(turns)))


def texts(row: PreviewRow, *kinds: str) -> str:
    return "".join(part.text for part in row.parts if part.kind in kinds)


def test_answers_are_learned_and_prompts_are_read(template: ChatTemplate) -> None:
    example = talk("What is a finch?", "A bird.", "Can it fly?", "Yes.")
    row = preview_example(example, template, number=1, system=None, max_length=512)
    learned = [part.text for part in row.parts if part.kind == "learned"]
    assert [text.startswith(answer) for text, answer in zip(learned, ("A bird.", "Yes."), strict=True)] == [True, True]
    assert "What is a finch?" in texts(row, "prompt")
    whole = tokenize(example, template, max_length=512)
    assert texts(row, "prompt", "learned") == template.tokenizer.decode(whole.input_ids.tolist())
    assert (row.tokens, row.learned_tokens, row.dropped_tokens) == (len(whole), int(whole.labels.sum()), 0)


def test_parts_that_do_not_fit_are_dropped_where_they_were(template: ChatTemplate) -> None:
    example = talk("First question of many words?", "First answer.", "Second question?", "Second answer.")
    whole = tokenize(example, template, max_length=512)
    length = len(whole) - 5
    row = preview_example(example, template, number=1, system=None, max_length=length)
    kept = tokenize(example, template, max_length=length)
    assert texts(row, "prompt", "learned") == template.tokenizer.decode(kept.input_ids.tolist())
    assert "First question" in texts(row, "dropped")
    assert "Second answer." in texts(row, "learned")
    assert row.dropped_tokens == len(whole) - len(kept) > 0


def test_row_that_cannot_be_used_has_its_problem(template: ChatTemplate) -> None:
    row = preview_example(talk("word " * 40, "Yes."), template, number=7, system="word " * 40, max_length=8)
    assert row.number == 7
    assert row.problem is not None
    assert row.parts == ()


def test_system_prompt_is_read(template: ChatTemplate) -> None:
    row = preview_example(talk("Hi", "Hello"), template, number=1, system="Be short.", max_length=512)
    assert "Be short." in texts(row, "prompt")
