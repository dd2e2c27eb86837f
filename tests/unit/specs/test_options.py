"""Options are named in the words of those who read a message."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from finch_hub.specs.options import in_command, name_option, write_options

OPTIONS: Mapping[str, str | float | Sequence[str]] = {
    "prompt_column": "my question",
    "ignore_columns": ("label", "kto_tag"),
    "replace": True,
    "max_bad_rows": 0.1,
}


def test_options_are_arguments_of_a_function_unless_a_command_runs() -> None:
    arguments = "prompt_column='my question', ignore_columns=('label', 'kto_tag'), replace=True, max_bad_rows=0.1"
    words = "--prompt-column 'my question' --ignore-column label --ignore-column kto_tag --replace --max-bad-rows 0.1"
    assert write_options(OPTIONS) == arguments
    with in_command():
        assert write_options(OPTIONS) == words
        assert name_option("max_bad_rows") == "--max-bad-rows"
    assert write_options(OPTIONS) == arguments
    assert name_option("max_bad_rows") == "max_bad_rows"


def test_thread_beside_a_command_has_the_words_of_functions() -> None:
    names: list[str] = []
    with in_command():
        thread = threading.Thread(target=lambda: names.append(name_option("encoding")))
        thread.start()
        thread.join()
    assert names == ["encoding"]
