"""Advice about columns: guesses keep what the user has named rightly."""

from __future__ import annotations

import pytest

from finch_hub.engine.data.column_advice import suggest_columns
from finch_hub.specs.options import in_command


@pytest.mark.parametrize(
    ("columns", "named", "options"),
    [
        (["id", "frage", "antwort"], {}, "--prompt-column frage --completion-column antwort"),
        (["id", "a", "reply"], {"prompt": "a"}, "--prompt-column a --completion-column reply"),
        (
            ["id", "answer", "question"],
            {"completion": "answers"},
            "--prompt-column question --completion-column answer",
        ),
        (["a", "b"], {"prompt": "b"}, "--prompt-column b --completion-column a"),
        (["a", "b", "c"], {"prompt": "zzz"}, "--prompt-column COLUMN --completion-column COLUMN"),
        (["talk", "id"], {"messages": "talks"}, "--messages-column talk"),
        (["x", "y", "z"], {"messages": "talks"}, "--messages-column COLUMN"),
    ],
)
def test_options_are_guessed_from_names(columns: list[str], named: dict[str, str], options: str) -> None:
    row = dict.fromkeys(columns, "text")
    with in_command():
        assert suggest_columns(columns, row, named) == f"name the columns: add {options}"


def test_arguments_are_suggested_in_python() -> None:
    row = {"q": "a", "dialog": '[{"role": "user"}]'}
    advice = suggest_columns(list(row), row, {})
    assert advice == "name the columns: add messages_column='dialog'"
    advice = suggest_columns(["0", "1"], {"0": "a", "1": "b"}, {})
    assert advice.startswith("if these are not names but values of a row, name the columns, in CSV by")
    assert "--" not in advice


@pytest.mark.parametrize(
    "name", ["Where is it?", "12", "3,5", "one two three four five", '{"a": 1}', "Bonjour à tous !"]
)
def test_name_that_is_rather_a_text_asks_for_a_header(name: str) -> None:
    assert suggest_columns([name, "b"], {name: "a", "b": "c"}, {}).startswith("if these are not names but values")


@pytest.mark.parametrize("name", ["question", "User message", "col 2", "Kunde/Anfrage", "v1.2"])
def test_ordinary_names_do_not_ask_for_a_header(name: str) -> None:
    assert suggest_columns([name, "b"], {name: "a", "b": "c"}, {}).startswith("name the columns: ")
