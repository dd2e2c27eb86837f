import pytest

from finch_hub import errors
from finch_hub.specs.examples import Example, Message, examples_of


def test_pairs_mappings_and_examples_become_the_same() -> None:
    pair, mapping, conversation, example = examples_of(
        [
            ("ask", "answer"),
            {"prompt": "ask", "completion": "answer"},
            {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "answer"}]},
            Example.of_pair("ask", "answer"),
        ]
    )
    assert pair == mapping == conversation == example


def test_a_system_prompt_comes_first() -> None:
    assert Example.of_pair("ask", "answer", "be brief").messages[0] == Message(role="system", content="be brief")


def test_every_bad_example_is_named_by_its_position() -> None:
    with pytest.raises(errors.InvalidDataset) as caught:
        examples_of([("ask", "answer"), ("ask", " "), ("", "answer"), 3, {"messages": []}])  # type: ignore[list-item]
    assert [problem.where for problem in caught.value.problems] == ["example 2", "example 3", "example 4", "example 5"]


def test_no_examples_at_all_are_refused() -> None:
    with pytest.raises(errors.InvalidDataset, match="no examples"):
        examples_of([])


def test_messages_and_text_exclude_each_other() -> None:
    with pytest.raises(errors.InvalidSpec, match="both messages and text"):
        Example(text="x", messages=Example.of_pair("a", "b").messages)
