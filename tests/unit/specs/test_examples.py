import pytest

from finch_hub import errors
from finch_hub.specs.examples import Example, Message, examples_of


def test_pairs_and_mappings_become_equal_examples() -> None:
    pair, mapping, conversation, example = examples_of(
        [
            ("ask", "answer"),
            {"prompt": "ask", "completion": "answer"},
            {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "answer"}]},
            Example.of_pair("ask", "answer"),
        ]
    )
    assert pair == mapping == conversation == example


def test_system_prompt_is_the_first_message() -> None:
    assert Example.of_pair("ask", "answer", "be brief").messages[0] == Message(role="system", content="be brief")


def test_invalid_examples_are_reported_with_their_positions() -> None:
    with pytest.raises(errors.InvalidDataset) as caught:
        examples_of([("ask", "answer"), ("ask", " "), ("", "answer"), 3, {"messages": []}])  # type: ignore[list-item]
    assert [problem.where for problem in caught.value.problems] == ["example 2", "example 3", "example 4", "example 5"]


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(errors.InvalidDataset, match="no examples"):
        examples_of([])


def test_example_with_messages_and_text_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="both messages and text"):
        Example(text="x", messages=Example.of_pair("a", "b").messages)
