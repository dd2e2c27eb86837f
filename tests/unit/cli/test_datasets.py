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
    purged = run("datasets", "purge", "birds")
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


def test_table_of_other_columns_is_added_with_the_command_that_the_error_gives(run: Run, tickets: Path) -> None:
    refused = run("datasets", "add", tickets)
    assert refused.status == 2
    assert len(refused.err.splitlines()) == 1
    command = refused.err.partition("name the columns: finch-hub ")[2].rstrip(")\n").split()
    added = run(*command, "--name", "tickets", "--json")
    assert added.status == 0
    assert (added.json["examples"], added.json["reading"]["unused"]) == (40, {"id": 40, "topic": 40})
    assert [line.partition(": ")[0] for line in added.err.splitlines()] == ["warning"] * 3
    settled = run(*command, "--encoding", "cp1252", "--delimiter", ";")
    assert len(settled.err.splitlines()) == 2  # unused columns, and the next command


def test_rows_that_are_left_out_are_warned_of_or_refused(run: Run, data: Path) -> None:
    with data.open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "", "completion": "x"}\n')
    assert "11 rows cannot be used, and max_bad_rows allows 0.05" in run("datasets", "add", data).err
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
        assert run("datasets", "add", "-", "--name", "piped", *options).out == "Added data set piped: 1 example\n"
    assert len(run("datasets", "list", "--json").json) == 1


def test_data_without_a_name_is_refused(run: Run) -> None:
    refused = run("datasets", "add", "")
    assert (refused.status, refused.err) == (2, "error: no data is named (name a file, a folder or a data set)\n")


def test_system_prompt_of_the_examples_that_have_none_is_given(run: Run, data: Path) -> None:
    without = run("datasets", "add", data, "--json").json
    given = run("datasets", "add", data, "--system", "Chirp.", "--json").json
    assert (given["examples"], given["bytes"] > without["bytes"]) == (10, True)
