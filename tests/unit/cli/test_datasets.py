"""`finch-hub datasets`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from .conftest import Run

# The command line shows these warnings, which are errors in tests.
pytestmark = pytest.mark.filterwarnings("default::finch_hub.specs.reading.DataWarning")


def test_data_sets_are_added_listed_and_purged(run: Run, data: Path) -> None:
    assert run("datasets", "add", data, "--name", "birds").out == "Added data set birds: 10 examples\n"
    assert "birds" in run("datasets", "list").out
    purged = run("datasets", "purge", "birds", "--yes")
    assert purged.out == "Deleted the text of data set birds. Its hash and figures remain.\n"
    (purged,) = run("datasets", "list", "--json").json
    assert purged["purged_at"] is not None


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A table of four columns, as spreadsheets of western Europe write it."""
    file = tmp_path / "tickets.csv"
    rows = "".join(f'{n};"Wo ist Paket {n}; bitte?";Es kommt am {n}. März.;Post\n' for n in range(40))
    file.write_bytes(f"id;customer_message;agent_reply;topic\n{rows}".encode("cp1252"))
    return file


def test_table_of_other_columns_is_added_with_the_options_that_the_error_gives(run: Run, tickets: Path) -> None:
    refused = run("datasets", "add", tickets)
    assert refused.status == 2
    assert len(refused.err.splitlines()) == 1
    command = [
        "datasets",
        "add",
        str(tickets),
        *refused.err.partition("name the columns: add ")[2].rstrip(")\n").split(),
    ]
    added = run(*command, "--name", "tickets", "--json")
    assert added.status == 0
    assert (added.json["examples"], added.json["reading"]["unused"]) == (40, {"id": 40, "topic": 40})
    assert [line.partition(": ")[0] for line in added.err.splitlines()] == ["warning"] * 3
    settled = run(*command, "--encoding", "cp1252", "--delimiter", ";")
    assert len(settled.err.splitlines()) == 2  # unused columns, and the next command


def test_rows_that_are_left_out_are_warned_of_or_refused(run: Run, data: Path) -> None:
    with data.open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "", "completion": "x"}\n')
    assert "11 rows cannot be used, more than --max-bad-rows 0.05 allows" in run("datasets", "add", data).err
    added = run("datasets", "add", data, "--max-bad-rows", 0.1)
    assert added.out.endswith("10 examples\n")
    assert "left out 1 of 11 rows:\n  line 11: prompt is empty" in added.err
    assert run("datasets", "add", data, "--max-bad-rows", 0.1, "--strict").status == 2


def test_standard_input_is_added(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, options in (
        (b'{"prompt": "a", "completion": "b"}\n', ()),
        (b"prompt\tcompletion\na\tb\n", ("--file-format", "tsv")),
        (b'[{"dialog": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]',
         ("--messages-column", "dialog")),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        told = run("datasets", "add", "-", "--name", "piped", *options).out
        assert told in ("Added data set piped: 1 example\n", "Data set piped was stored before: 1 example\n")
    assert len(run("datasets", "list", "--json").json) == 1


def test_name_moves_to_other_examples_only_if_that_is_asked_for(run: Run, data: Path) -> None:
    run("datasets", "add", data, "--name", "birds")
    first = run("datasets", "list", "--json").json[0]["digest"]
    assert run("datasets", "add", data, "--name", "birds").out == "Data set birds was stored before: 10 examples\n"
    with data.open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "Who?", "completion": "The wren."}\n')
    refused = run("datasets", "add", data, "--name", "birds")
    assert refused.status == 4
    assert f"data set birds ({first[:12]}) has other rows, 10 in number" in refused.err
    assert "--replace" in refused.err
    moved = run("datasets", "add", data, "--name", "birds", "--replace")
    second = next(found["digest"] for found in run("datasets", "list", "--json").json if found["name"] == "birds")
    assert moved.out == f"Moved the name birds from data set {first[:12]} to {second[:12]}: 11 examples\n"
    assert first != second


def test_data_set_that_gets_another_name_is_told_to_have_it(run: Run, data: Path) -> None:
    digest = run("datasets", "add", data, "--json").json["digest"]
    added = run("datasets", "add", data, "--name", "e1")
    assert added.out == f"Named data set {digest[:12]}, which had no name, e1: 10 examples\n"
    assert run("datasets", "add", digest, "--name", "e2", "--replace").out == "Renamed data set e1 to e2: 10 examples\n"
    assert run("datasets", "add", data, "--replace").out == "Data set e2 was stored before: 10 examples\n"
    with data.open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "Who?", "completion": "The wren."}\n')
    other = run("datasets", "add", data, "--name", "wrens", "--json").json["digest"]
    moved = run("datasets", "add", data, "--name", "e2", "--replace")
    names = f"Moved the name e2 from data set {digest[:12]} to {other[:12]}, which was wrens"
    assert moved.out == f"{names}: 11 examples\n"
    run("datasets", "purge", "e2", "--yes")
    assert run("datasets", "add", data, "--name", "e3").out == "Added data set e3: 11 examples\n"


def test_suggested_command_names_a_stored_set_beside_a_folder_of_its_name(
    run: Run, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    folder = tmp_path / "mails"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for split, texts in (("train", "abc"), ("validation", "de")):
        rows = "".join(f'{{"prompt": "{text}", "completion": "x"}}\n' for text in texts)
        (folder / f"{split}.jsonl").write_text(rows)
    for expected in ("Added data set {}: {}", "Data set {} was stored before: {}"):
        added = run("datasets", "add", "mails", "--name", "mails")
        counts = (("mails", "3 examples"), ("mails-validation", "2 examples"))
        assert added.out.splitlines() == [expected.format(*count) for count in counts]
    words = added.err.partition("finch-hub train ")[2].split()
    assert words[1:] == ["--validation", "mails-validation", "--adapter", "mails", "--base", "tiny"]
    assert run("datasets", "add", words[0], "--name", "mails").out.startswith("Data set mails was stored before")
    refused = run("train", "mails", "--adapter", "a", "--base", "no-base")
    assert "mails: is both a stored data set and a folder of this directory (write ./mails" in refused.err


@pytest.mark.parametrize("words", [("x" * 5_000,), ("data.jsonl", "--name", "x" * 5_000)])
def test_long_names_are_refused_in_short(run: Run, data: Path, words: tuple[str, ...]) -> None:
    assert len(run("datasets", "add", *words).err) < 600


def test_data_without_a_name_is_refused(run: Run) -> None:
    refused = run("datasets", "add", "")
    assert (refused.status, refused.err) == (2, "error: no data is named (name a file, a folder or a data set)\n")


def test_system_prompt_of_the_examples_that_have_none_is_given(run: Run, data: Path) -> None:
    without = run("datasets", "add", data, "--json").json
    given = run("datasets", "add", data, "--system", "Chirp.", "--json").json
    assert (given["examples"], given["bytes"] > without["bytes"]) == (10, True)


def test_messages_name_words_of_the_command(run: Run, data: Path) -> None:
    both = run("datasets", "add", data, "--prompt-column", "q", "--completion-column", "q")
    assert "--prompt-column and --completion-column are both 'q'" in both.err
    run("datasets", "add", data, "--name", "birds")
    stored = run("datasets", "add", "birds", "--ignore-column", "id")
    assert "is stored, so that --ignore-column cannot change how it is read" in stored.err


def test_license_of_a_data_set_is_shown(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "Question {n}?", "completion": "Answer {n}."}}\n' for n in range(9)))
    assert run("datasets", "add", rows, "--name", "rows").status == 0
    assert "unknown" in run("datasets", "show", "rows").out
    assert run("datasets", "add", rows, "--name", "rows", "--license", "CC-BY-4.0").status == 0
    assert "cc-by-4.0" in run("datasets", "show", "rows").out
    shown = run("datasets", "show", "rows", "--json").json
    assert (shown["license"], shown["examples"]) == ("cc-by-4.0", 9)
    assert "Answer 3" not in str(shown)


def test_preview_shows_rows_as_the_base_sees_them(run: Run, data: Path, tiny_folder: Path) -> None:
    shown = run("datasets", "preview", data, "--base", tiny_folder, "--limit", 2)
    assert shown.status == 0, shown.err
    assert "The first 2 rows of 10 (10 prompt_completion)" in shown.out
    assert "[[Answer 0." in shown.out
    assert "row 3" not in shown.out
    parts = run("datasets", "preview", data, "--base", tiny_folder, "--json").json["rows"][0]["parts"]
    assert [part["kind"] for part in parts] == ["prompt", "learned"]
    assert run("datasets", "list", "--json").json == []
