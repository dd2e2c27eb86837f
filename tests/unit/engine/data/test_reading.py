"""Datasets read from files, folders and Python values."""

from __future__ import annotations

import bz2
import contextlib
import datetime
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet
from support import fuzzing

from finch_hub import errors
from finch_hub.engine.data import data_folders, reading, row_collector, row_formats, row_time
from finch_hub.engine.data.data_folders import Split
from finch_hub.engine.data.row import MAX_LINE
from finch_hub.specs.examples import Example, Message
from finch_hub.specs.reading import DataWarning, ReadingConfig, ReadingOptions

ROWS = [{"prompt": "What does a finch eat?", "completion": "Seeds."}, {"prompt": "Où?", "completion": "Là-bas."}]
EXAMPLES = tuple(Example.of_pair(row["prompt"], row["completion"]) for row in ROWS)
LINES = [json.dumps(row) for row in ROWS]


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


def table_of(rows: list[dict[str, Any]]) -> pyarrow.Table:
    return pyarrow.table({name: [row.get(name) for row in rows] for name in dict.fromkeys(k for r in rows for k in r)})


def write_arrow(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = table_of(rows)
    with pyarrow.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def problems_of(source: Any, **options: Any) -> list[errors.Problem]:
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(source, **options)
    return list(caught.value.problems)


def test_jsonl_json_and_csv_hold_the_same_examples(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", *LINES)
    whole = write(tmp_path / "a.json", json.dumps(ROWS))
    table = write(tmp_path / "a.csv", "prompt,completion", *(f'"{r["prompt"]}","{r["completion"]}"' for r in ROWS))
    assert reading.read_examples(jsonl) == reading.read_examples(whole) == reading.read_examples(table) == EXAMPLES


def test_parquet_and_arrow_files_are_read(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert reading.read_examples(tmp_path / "a.parquet") == EXAMPLES
    assert reading.read_examples(write_arrow(tmp_path / "b.arrow", ROWS)) == EXAMPLES


UNIONS: dict[str, list[dict[str, Any]]] = {
    "formats": [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": "c", "completion": "d"},
        {"instruction": "e", "input": None, "output": "f"},
        {"conversations": [{"from": "human", "value": "g"}, {"from": "gpt", "value": "h"}], "system": "i"},
        {"text": "j"},
    ],
    "turns": [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}] * 2
         + [{"role": "assistant", "content": "c"}]},
        {"messages": [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b",
                                                                       "reasoning_content": "Hm."}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1.0}]},
    ],
    "calls": [
        {"messages": [
            {"role": "user", "content": "Warm?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"city": "Oslo"}}}]},
            {"role": "tool", "tool_call_id": "1", "content": "21"},
            {"role": "assistant", "content": "Yes."}],
         "tools": [{"type": "function", "function": {"name": "look", "parameters": {
             "type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}, "required": ["city"]}}}]},
        {"messages": [
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"function": {"arguments": {"zone": 2, "exact": True}, "name": "now"}, "type": "function"}]},
            {"role": "assistant", "content": "Late."}],
         "tools": [{"function": {"parameters": {"properties": {"zone": {"description": "Zone", "type": "integer"},
                                                               "exact": {"type": "boolean"}},
                                                "type": "object"}, "description": "Time", "name": "now"},
                    "type": "function"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]},
    ],
    "documents": [
        {"prompt": "a", "completion": "b", "documents": [{"title": "t", "text": "x"}, {"text": "y", "year": 2}]},
        {"prompt": "a", "completion": "c"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", UNIONS)
def test_tables_whose_absent_keys_are_null_are_the_data_set_of_their_lines(name: str, tmp_path: Path) -> None:
    """Arrow gives all objects of a column the same keys, in one order."""
    rows = UNIONS[name]
    lines = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    parquet.write_table(table_of(rows), tmp_path / "a.parquet")
    expected = reading.dump_examples(reading.read_examples(lines))
    assert reading.dump_examples(reading.read_examples(tmp_path / "a.parquet")) == expected
    assert reading.dump_examples(reading.read_examples(write_arrow(tmp_path / "a.arrow", rows))) == expected
    assert reading.dump_examples(reading.read_examples(rows)) == expected
    assert reading.dump_examples(reading.read_examples(table_of(rows))) == expected


def test_canonical_form_is_read_as_the_same_data_set(tmp_path: Path) -> None:
    rows = [row for rows in UNIONS.values() for row in rows]
    content = reading.dump_examples(reading.read_examples(rows))
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    assert reading.dump_examples(reading.read_examples(file)) == content


def test_read_of_a_folder_takes_the_train_split_without_metadata_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000-of-00002.jsonl", LINES[0])
    write(tmp_path / "data" / "train-00001-of-00002.jsonl", LINES[1])
    write(tmp_path / "data" / "test-00000-of-00001.jsonl", json.dumps({"prompt": "p", "completion": "c"}))
    write(tmp_path / "dataset_info.json", "{}")
    write(tmp_path / "README.md", "# Finches")
    assert reading.read_data(tmp_path).examples == EXAMPLES
    assert not reading.has_validation(tmp_path)


@pytest.mark.parametrize("name", ["validation-00000-of-00001.jsonl", "dev.jsonl", "val/rows.jsonl", "Valid_1.jsonl"])
def test_read_of_a_folder_takes_its_validation_split(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name, LINES[0])
    write(tmp_path / "values.jsonl", LINES[1])
    write(tmp_path / "train.jsonl", LINES[1])
    assert reading.has_validation(tmp_path)
    assert reading.read_examples(tmp_path, split="validation") == EXAMPLES[:1]
    assert reading.read_data(tmp_path).examples == EXAMPLES[1:]


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["birds", "validation"], ["birds"], ["validation"]),
        (["birds", "test"], ["birds"], []),
        (["a/rows", "b/rows", "val/rows"], ["a/rows", "b/rows"], ["val/rows"]),
        (["dev", "hr", "ops"], ["hr", "ops"], ["dev"]),
        (["validation", "validation_2"], ["validation", "validation_2"], []),  # one split is all there is
        (["test"], ["test"], []),
        (["birds", "bees"], ["bees", "birds"], []),
        (["dev/train", "dev/validation"], ["dev/train"], ["dev/validation"]),
        (["train/a", "train/val"], ["train/a"], ["train/val"]),
        (["train", "test", "evaluation"], ["train"], []),
        (["train", "trainers", "valley"], ["train"], []),
    ],
)
def test_every_file_of_a_folder_is_in_at_most_one_split(
    names: list[str], train: list[str], validation: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.jsonl", json.dumps({"prompt": name, "completion": "c"}))

    def read(split: Split) -> list[str]:
        return [example.messages[0].content for example in reading.read_data(tmp_path, split=split).examples]

    assert read("train") == train
    assert reading.has_validation(tmp_path) == bool(validation)
    if validation:
        assert read("validation") == validation


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("train", "more", "test"):
        write(tmp_path / f"{name}.jsonl", *LINES)
    with pytest.warns(DataWarning, match="files that are not of the train split: more.jsonl, test.jsonl"):
        assert reading.read_examples(tmp_path) == EXAMPLES
    (problem,) = problems_of(tmp_path, strict=True)
    assert problem.what == "has files that are of no split, and would not be read: more.jsonl"
    (tmp_path / "more.jsonl").unlink()
    assert reading.read_data(tmp_path, ReadingConfig(strict=True)).examples == EXAMPLES


def test_folder_of_several_splits_without_one_to_train_on_is_refused(tmp_path: Path) -> None:
    for name in ("validation", "test"):
        write(tmp_path / f"{name}.jsonl", *LINES)
    (problem,) = problems_of(tmp_path)
    assert problem.what == "has no file of the train split, only test.jsonl, validation.jsonl"


def test_folder_holds_files_of_several_formats_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES[0].encode()))
    write(tmp_path / "b.tsv", "prompt\tcompletion", "Où?\tLà-bas.")
    for hidden in ("._a.jsonl", ".cache/x.jsonl", "__MACOSX/a.jsonl"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\0\5\26\7")
    assert reading.read_data(tmp_path).examples == EXAMPLES
    (tmp_path / "c.xlsx").write_bytes(b"PK\3\4")
    with pytest.warns(DataWarning, match=r"files that were not read: c\.xlsx"):
        assert reading.read_examples(tmp_path) == EXAMPLES


def test_folder_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *LINES)
    inner = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # until the path is longer than any system takes
        os.mkdir("x" * 250, dir_fd=inner)
        outer, inner = inner, os.open("x" * 250, os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    with pytest.raises(errors.InvalidDataset, match=r"x: the folder cannot be listed: File name too long"):
        reading.read_data(tmp_path)


def test_folders_that_datasets_saves_are_read(tmp_path: Path) -> None:
    """The layout of `Dataset.save_to_disk` and of `DatasetDict.save_to_disk`."""
    for split, row in (("train", ROWS[0]), ("validation", ROWS[1]), ("test", ROWS[1])):
        folder = tmp_path / "birds" / split
        folder.mkdir(parents=True)
        write_arrow(folder / "data-00000-of-00001.arrow", [row])
        write_arrow(folder / "cache-0123456789abcdef.arrow", [{"input_ids": [1]}])
        write(folder / "dataset_info.json", "{}")
        write(folder / "state.json", '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    write(tmp_path / "birds" / "dataset_dict.json", '{"splits": ["train", "validation", "test"]}')
    assert reading.read_data(tmp_path / "birds").examples == EXAMPLES[:1]
    assert reading.read_examples(tmp_path / "birds", split="validation") == EXAMPLES[1:]
    assert reading.read_examples(tmp_path / "birds" / "test") == EXAMPLES[1:]


INVALID = [
    b"{bad",
    b'{"prompt": "", "completion": "x"}',
    b'{"completion": "x"}',
    b'{"prompt": "\xff", "completion": "x"}',
    b"[1]",
    b'{"messages": [{"role": "bot", "content": "x"}]}',
    b'{"prompt": "\\ud800", "completion": "x"}',
    b'{"prompt": "' + b"x" * MAX_LINE + b'", "completion": "x"}',
    b"[" * 100_000,
    b'{"prompt": "a", "prompt": "b", "completion": "x"}',
]


def test_every_invalid_line_is_reported_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "invalid.jsonl"
    good = json.dumps(ROWS[1], ensure_ascii=False).encode()
    file.write_bytes(b"\n".join([good, *INVALID, good, b""]))
    found = {problem.where: problem.what for problem in problems_of(file)}
    assert sorted(found, key=lambda where: int(where.split()[1])) == [f"line {n}" for n in range(2, 2 + len(INVALID))]
    needles = ("not JSON", "prompt is empty", "no 'prompt'", "UTF-8", "not an object", "'bot'", "surrogate")
    for number, needle in enumerate((*needles, "longer than 4,194,304", "nested", "key twice"), start=2):
        assert needle in found[f"line {number}"]


def test_invalid_rows_within_the_limit_are_left_out_counted_and_named(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    good = json.dumps(ROWS[1], ensure_ascii=False).encode()
    file.write_bytes(b"\n".join([good, *INVALID, good, b""]))
    with pytest.warns(DataWarning, match="left out 10 of 12 rows:") as warned:
        assert reading.read_examples(file, max_bad_rows=0.9) == (EXAMPLES[1], EXAMPLES[1])
    for number in range(2, 2 + len(INVALID)):
        assert f"\n  line {number}: " in str(warned[0].message)
    data = reading.read_data(file, ReadingConfig(max_bad_rows=0.9))
    assert (data.report.rows, data.report.left_out, len(data.report.problems)) == (12, 10, 10)


@pytest.mark.parametrize(("bad", "is_read"), [(5, True), (6, False)])
@pytest.mark.usefixtures("words_of_a_command")
def test_share_of_rows_that_may_be_left_out_is_five_in_a_hundred(bad: int, is_read: bool, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *["{}" if n < bad else LINES[0] for n in range(100)])
    if is_read:
        assert len(reading.read_data(file).examples) == 95
        with pytest.raises(errors.InvalidDataset, match="5 of 100 rows cannot be used, which --strict refuses"):
            reading.read_data(file, ReadingConfig(strict=True))
    else:
        with pytest.raises(
            errors.InvalidDataset, match=r"6 of 100 rows cannot be used, more than --max-bad-rows 0\.05 "
        ):
            reading.read_data(file)


def test_thousands_of_problems_are_one_list_of_twenty_with_counts(tmp_path: Path) -> None:
    lines = ["{bad", '{"prompt": " ", "completion": "x"}', '{"messages": [{"role": "bot"}]}'] * 1000
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(write(tmp_path / "a.jsonl", *lines))
    shown = str(caught.value).splitlines()
    assert len(shown) == 5
    assert shown[0].endswith("3,000 problems")
    numbers = ", ".join(str(number) for number in range(1, 60, 3))
    assert shown[1].startswith(f"  lines {numbers} and 314 more: is not JSON: ")
    assert shown[-1] == (
        "  … and 2,000 more; all by kind: 1,000 × is not JSON; 1,000 × prompt is empty; "
        "1,000 × messages, turn N has the role 'bot'"
    )


def test_reading_stops_when_most_of_many_rows_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_collector, "_HOPELESS_ROWS", 100)
    pair = '{"prompt": "a", "completion": "b"}'
    path = write(tmp_path / "a.jsonl", *[pair] * 80, *["{"] * 500)
    problems = problems_of(path)
    assert (problems[0].where, problems[0].what) == (
        "line 180",
        "is where the reading stopped, since most rows before it cannot be used",
    )
    assert len(problems) == 101
    path = write(tmp_path / "b.jsonl", *[pair] * 80, *["{"] * 500)
    assert len(reading.read_data(path, ReadingConfig(max_bad_rows=0.9)).examples) == 80


def test_problems_of_a_million_turns_are_those_of_the_first_ones(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path / "a.jsonl", *[json.dumps({"messages": [{}] * 100_000})] * 2))
    assert len(problems) == 40


def test_rows_that_are_left_out_are_counted_by_kind_too(tmp_path: Path) -> None:
    lines = [LINES[0]] * 1000 + ["{bad", '{"prompt": " ", "completion": "x"}'] * 20
    with pytest.warns(DataWarning, match="left out 40 of 1,040 rows:") as warned:
        reading.read_examples(write(tmp_path / "a.jsonl", *lines))
    shown = str(warned[0].message).splitlines()
    assert (len(shown), shown[1][:13]) == (3, "  lines 1001,")
    assert shown[2].startswith("  lines 1002, 1004, 1006, 1008, 1010, ")
    assert shown[2].endswith(", 1040: prompt is empty (give both texts)")


@pytest.mark.parametrize("strict", [False, True])
def test_columns_and_fields_without_a_meaning_are_named(strict: bool, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a", "id": 7}, {"role": "assistant", "content": "b", "mood": ""}]
    rows = [{**ROWS[0], "id": 1}, {**ROWS[1], "id": 2, "meta": {}}, {"messages": turns, "source": "x", "meta": None}]
    file = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    if strict:
        assert {p.where for p in problems_of(file, strict=True)} == {"id", "source", "messages[].id"}
        return
    with pytest.warns(DataWarning, match=r"not used: id \(2 rows\), "):
        reading.read_examples(file)
    assert reading.read_data(file).report.unused == {"id": 2, "source": 1, "messages[].id": 1}


def test_rows_of_weight_zero_are_left_out_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *(json.dumps({**row, "weight": w}) for w in (1, 0, None) for row in ROWS))
    data = reading.read_data(file)
    assert (data.examples, data.report.without_weight, data.report.left_out) == (EXAMPLES * 2, 2, 0)
    with pytest.warns(DataWarning, match="left out 2 of 6 rows, whose weight is 0"):
        reading.read_examples(file)
    assert [p.where for p in problems_of(file, strict=True)] == ["weight"]
    assert "all have the weight 0" in problems_of([{**ROWS[0], "weight": 0}])[0].what


TICKETS = ["id;customer_message;agent_reply;topic"] + [
    f'{n};"Grüße aus Köln; wo ist Paket {n}?";Es kommt am {n}. März.;{"" if n % 3 else "post"}' for n in range(40)
]


@pytest.mark.usefixtures("words_of_a_command")
def test_columns_that_fit_nothing_are_told_once_with_the_command_that_names_them(tmp_path: Path) -> None:
    file = write(tmp_path / "my tickets.csv", *TICKETS, encoding="latin-1")
    (problem,) = problems_of(file)
    assert problem.where == "line 2 and 39 more rows"
    assert problem.what == "fits no format; the columns are id, customer_message, agent_reply, topic"
    assert problem.fix == "name the columns: add --prompt-column customer_message --completion-column agent_reply"
    options = {"prompt_column": "customer_message", "completion_column": "agent_reply"}
    data = reading.read_data(file, ReadingConfig.of(options))
    assert data.examples[3] == Example.of_pair("Grüße aus Köln; wo ist Paket 3?", "Es kommt am 3. März.")
    assert data.report.unused == {"id": 40, "topic": 14}
    assert [text.partition(" (")[0] for text in data.report.recognized] == [
        "read as Windows-1252",
        "columns are separated by the semicolon",
    ]


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (["frage", "antwort"], "--prompt-column frage --completion-column antwort"),
        (["text_a", "reply"], "--prompt-column text_a --completion-column reply"),
        (["question", "b"], "--prompt-column question --completion-column b"),
        (["User message", "Bot"], "--prompt-column 'User message' --completion-column Bot"),
        (["a", "b", "c"], "--prompt-column COLUMN --completion-column COLUMN"),
        (["train", "test"], "--prompt-column COLUMN --completion-column COLUMN"),
        (["prompt", "response"], "--prompt-column prompt --completion-column response"),
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_command_that_names_columns_guesses_them(columns: list[str], options: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *[json.dumps({name: [{"x": 1}] for name in columns})] * 3)
    (problem,) = problems_of(file)
    assert problem.fix.endswith(options)


@pytest.mark.usefixtures("words_of_a_command")
def test_command_names_a_column_of_conversations(tmp_path: Path) -> None:
    row = {"dialog": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (problem,) = problems_of(write(tmp_path / "a.jsonl", json.dumps(row)))
    assert problem.fix.endswith("--messages-column dialog")
    assert problems_of([row])[0].fix == problem.fix
    assert reading.read_examples([row], messages_column="dialog") == (Example.of_pair("a", "b"),)


@pytest.mark.usefixtures("words_of_a_command")
def test_named_column_that_is_absent_is_told_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", *TICKETS)
    (problem,) = problems_of(file, prompt_column="customer_mesage", completion_column="agent_reply")
    assert problem.what.startswith("has no column 'customer_mesage'; the columns are id, customer_message")
    assert problem.fix == "name the columns: add --prompt-column customer_message --completion-column agent_reply"


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ({"prompt_column": "customer_message"}, "has no column 'completion'", ""),
        ({"completion_column": "agent_reply"}, "has no column 'prompt'", ""),
        (
            {"prompt_column": "customer_mesage", "completion_column": "agent_replies"},
            "has no column 'customer_mesage' and no column 'agent_replies'",
            "",
        ),
        ({"messages_column": "agent_reples"}, "has no column 'agent_reples'", "--messages-column agent_reply"),
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_columns_that_are_wrong_or_not_given_are_one_problem(
    options: ReadingOptions, what: str, fix: str, tmp_path: Path
) -> None:
    (problem,) = problems_of(write(tmp_path / "a.csv", *TICKETS), **options)
    assert problem.what == f"{what}; the columns are id, customer_message, agent_reply, topic"
    assert problem.fix.endswith(fix or "--prompt-column customer_message --completion-column agent_reply")


@pytest.mark.parametrize(
    "lines",
    [
        ["Where is parcel 7?,It comes on Friday.", "Who is there?,A finch."],
        ["1;Where is parcel 7?;It comes", "2;Who is there?;A finch"],
        ["3,4", "5,6"],
        ["Hello\tI would like to know more about the bird", "a\tb"],
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_table_without_a_header_is_told_to_have_none(lines: list[str], tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path / "a.csv", *lines))
    assert problem.fix.startswith(
        "if these are not names but values of a row, name the columns, in CSV by a first line"
    )


@pytest.mark.usefixtures("words_of_a_command")
def test_ignored_columns_are_named_and_refused_no_more(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a", "id": 7}, {"role": "assistant", "content": "b"}]
    rows = [{**ROWS[0], "id": 1}, {**ROWS[1], "images": ["x"]}, {"messages": turns, "label": False}]
    ignored = ("id", "images", "label", "messages[].id")
    file = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    data = reading.read_data(file, ReadingConfig(strict=True, ignore_columns=ignored))
    assert data.examples == (*EXAMPLES, Example.of_pair("a", "b"))
    assert data.report.ignored == {"id": 1, "images": 1, "label": 1, "messages[].id": 1}
    assert data.notes == ()
    assert reading.read_data(rows, ReadingConfig(strict=True, ignore_columns=ignored)).examples == data.examples
    (problem,) = problems_of(file, strict=True, ignore_columns=("images", "label", "messages[].id"))
    assert (problem.where, problem.fix) == ("id", "remove it, or add --ignore-column id")
    (problem,) = problems_of([{**ROWS[0], "id": 1}], strict=True)
    assert problem.fix == "remove it, or add --ignore-column id"


@pytest.mark.parametrize("absent", ["topc", "messages[].i", "messages[].content"])
def test_column_to_ignore_that_no_row_has_is_told_with_those_that_rows_have(absent: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a", "id": 7}, {"role": "assistant", "content": "b"}]
    rows = [{**ROWS[0], "topic": "seeds"}, {"messages": turns}]
    file = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    what = "is to be ignored, but is neither a column of a row nor an unused field of a turn"
    fix = "the columns are prompt, completion, topic, messages, messages[].id"
    ignored = ("topic", "messages[].id", absent)
    problem = errors.Problem(where=absent, what=what, fix=fix)
    for source in (file, rows):
        assert problems_of(source, strict=True, ignore_columns=ignored) == [problem]
        assert str(problem) in reading.read_data(source, ReadingConfig(ignore_columns=ignored)).notes[-1]
        config = ReadingConfig(ignore_columns=ignored, strict=True)
        assert reading.read_data(source, config, checks_ignored=False).notes == ()


@pytest.mark.parametrize(
    ("row", "options", "what"),
    [
        (ROWS[0], {"ignore_columns": ("completion",)}, "has no 'completion', because completion is ignored"),
        (ROWS[0], {"ignore_columns": ("prompt", "completion")}, "fits no format, because prompt, completion is"),
        ({"text": "a", "id": 1}, {"ignore_columns": ("text",)}, "fits no format, because text is ignored"),
        (
            {"q": "a", "completion": "b"},
            {"prompt_column": "q", "ignore_columns": ("completion",)},
            "has no column 'completion', because completion is ignored",
        ),
        ({"q": "a", "completion": "b"}, {"ignore_columns": ("completion",)}, "fits no format; the columns are q"),
    ],
)
def test_column_that_is_needed_and_ignored_is_told_to_be_ignored(
    row: dict[str, Any], options: ReadingOptions, what: str, tmp_path: Path
) -> None:
    for source in ([row], write(tmp_path / "a.jsonl", json.dumps(row))):
        (problem,) = problems_of(source, **options)
        assert problem.what.startswith(what)
        if "because" in what:
            assert problem.fix == "do not ignore the columns that are read"
        assert not any(f"column {name}" in problem.fix for name in options["ignore_columns"])


@pytest.mark.usefixtures("words_of_a_command")
def test_wrong_encoding_or_delimiter_is_one_sentence(tmp_path: Path) -> None:
    utf8, latin = "prompt,completion\né,ü\n" * 300, "prompt;completion\né;ü\n" * 300
    wide = utf8.encode("utf-16")
    for content, options, what in (
        (utf8.encode(), {"encoding": "utf-16"}, "is not UTF-16: it has no zero bytes"),
        (wide, {"encoding": "utf-8"}, "is not UTF-8: it begins with the mark of UTF-16"),
        (wide[2:], {"encoding": "cp1252"}, "is not CP1252: it has zero bytes, as UTF-16 has"),
        (latin.encode("latin-1"), {"encoding": "utf-8"}, "is not UTF-8: 300 of its first 600 lines have other bytes"),
        (latin.encode("latin-1"), {"encoding": "ascii"}, "is not ASCII: 300 of its first 600 lines have other bytes"),
        (utf8.encode(), {"delimiter": ";"}, "has no semicolon in its first line"),
        (latin.encode(), {"delimiter": "tab"}, "has no tab in its first line"),
    ):
        file = tmp_path / "a.csv"
        file.write_bytes(content)
        (problem,) = problems_of(file, **options)
        assert problem.what == what
        assert "leave out --" in problem.fix
    file.write_bytes("prompt,completion\né,ü\n".encode())
    told = reading.read_data(file, ReadingConfig(encoding="cp1252")).report.recognized
    assert told == ("read as cp1252, but its bytes are also UTF-8 (leave out --encoding if letters are wrong)",)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_damaged_line_of_an_ascii_file_is_left_out_and_named(suffix: str, tmp_path: Path) -> None:
    lines = [b"prompt,completion"] if suffix == "csv" else []
    lines += [b"ask,answer" if suffix == "csv" else b'{"prompt": "ask", "completion": "answer"}'] * 1_001
    lines[500] = lines[500].replace(b"ask", b"\x81\xff\xfe")
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(b"\n".join(lines) + b"\n")
    for config in (ReadingConfig(), ReadingConfig(encoding="utf-8")):
        report = reading.read_data(file, config).report
        assert (report.rows, report.left_out) == (1_001, 1)
        assert report.problems[0].startswith("line 501: ")
    with pytest.raises(errors.InvalidDataset):
        reading.read_data(file, ReadingConfig(encoding="utf-8", max_bad_rows=0.0))


def test_settings_of_programs_in_a_folder_are_no_rows(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", *LINES)
    (folder / "config.json").write_text('{"model_type": "llama", "layers": [1, 2]}')
    (folder / "README.md").write_text("# Birds")
    (folder / "dataset_info.json").write_text("{}")
    (folder / "package.json").write_text('{"name": "birds", "data": {"a": 1}}')
    data = reading.read_data(folder)
    assert (len(data.examples), data.report.left_out) == (len(EXAMPLES), 0)
    for file in ("train.jsonl", "config.json", "package.json"):
        (folder / file).rename(folder / file.replace("train", "birds"))
    data = reading.read_data(folder)
    assert (len(data.examples), data.report.left_out) == (len(EXAMPLES), 0)
    assert data.report.recognized == ("files that hold no rows: config.json, package.json",)
    for number, row in enumerate(ROWS):
        (folder / f"{number}.json").write_text(json.dumps(row, indent=1))
    (folder / "birds.jsonl").unlink()
    assert len(reading.read_data(folder).examples) == len(ROWS)


@pytest.mark.parametrize("name", ["test", "validation", "train", "rows"])
def test_settings_beside_one_file_change_no_split(name: str, tmp_path: Path) -> None:
    write(tmp_path / f"{name}.jsonl", *LINES)
    (tmp_path / "config.json").write_text('{"layers": 2}')
    assert not reading.has_validation(tmp_path)
    assert reading.read_data(tmp_path).examples == EXAMPLES


TWO_LISTS = json.dumps({"first": ROWS, "second": ROWS})
METRICS = '{"epoch": 1.0, "eval_loss": 2.5, "eval_samples": 8}'


@pytest.mark.parametrize(
    "settings", ["val_results", "train_results", "all_results", "eval_results", "info", "dev.info"]
)
@pytest.mark.parametrize("name", ["data", "train", "validation", "train-00000-of-00001"])
def test_settings_are_of_no_split_whatever_their_names(settings: str, name: str, tmp_path: Path) -> None:
    write(tmp_path / f"{name}.jsonl", *LINES)
    (tmp_path / f"{settings}.json").write_text(METRICS)
    assert not reading.has_validation(tmp_path)
    data = reading.read_data(tmp_path)
    assert data.examples == EXAMPLES
    assert data.report.recognized == (f"files that hold no rows: {settings}.json",)


def test_settings_that_become_a_pipe_block_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may replace a file after the look at it, and who opens a pipe waits for ever."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    os.mkfifo(tmp_path / "info.json")
    monkeypatch.setattr(data_folders, "_is_file", lambda _: True)
    assert len(reading.read_data(tmp_path).examples) == 4


def test_settings_beside_both_splits_are_of_neither(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *LINES)
    write(tmp_path / "dev.jsonl", LINES[0])
    for name in ("train_results", "val_results", "trainer_state", "tokenizer"):
        (tmp_path / f"{name}.json").write_text('{"log": [1], "vocabulary": "%s"}' % ("x" * 2**21))
    assert reading.has_validation(tmp_path)
    assert reading.read_data(tmp_path).examples == EXAMPLES
    assert reading.read_data(tmp_path, split="validation").examples == EXAMPLES[:1]


@pytest.mark.parametrize(
    "content", ['{"version": 1, "entries": [{"ask": "a", "reply": "b"}]}', '{"ask": "a",\n "reply": "b"}', TWO_LISTS]
)
def test_split_that_cannot_be_read_is_refused_instead_of_replaced_by_another(content: str, tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", *LINES)
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(errors.InvalidDataset):
        reading.read_data(tmp_path)
    assert reading.has_validation(tmp_path)


def test_file_of_several_lists_of_rows_is_not_one_of_settings(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *LINES)
    (tmp_path / "b.json").write_text(TWO_LISTS)
    assert [problem.where for problem in problems_of(tmp_path)] == ["b.json"]


def test_validation_split_of_named_columns_or_of_a_format_of_a_plugin_is_found(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"q": "a", "r": "b"}')
    (tmp_path / "val_1.json").write_text('{"q": "c",\n "r": "d"}')
    config = ReadingConfig(prompt_column="q", completion_column="r")
    asked = row_formats.RowFormat("asked", frozenset({"q", "r"}), lambda row: Example.of_pair(row["q"], row["r"]))
    assert reading.has_validation(tmp_path, config)
    assert reading.has_validation(tmp_path, formats=[asked])
    assert not reading.has_validation(tmp_path)
    (held_out,) = reading.read_data(tmp_path, config, split="validation").examples
    assert held_out == Example.of_pair("c", "d")


def test_address_is_refused_by_its_own_name() -> None:
    for address in ("https://example.org/rows.jsonl", "hf://datasets/a/b", "s3://bucket/rows.csv"):
        with pytest.raises(errors.InvalidDataset, match=f"^{address}: is an address"):
            reading.read_data(address)


def test_splits_of_a_mapping_that_are_not_read_are_told() -> None:
    data = reading.read_data({"train": ROWS, "validation": ROWS, "test": ROWS}, also_read="validation")
    assert data.report.recognized == ("splits that were not read: test",)
    assert reading.read_data({"train": ROWS, "dev": ROWS}).report.recognized == ("splits that were not read: dev",)


def test_warning_points_to_the_line_of_the_caller() -> None:
    with pytest.warns(DataWarning) as warned:
        reading.read_examples([{**ROWS[0], "id": 1}])
    assert warned[0].filename == __file__


@pytest.mark.usefixtures("words_of_a_command")
def test_labels_of_answers_are_refused_also_in_a_named_format(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *[json.dumps({**ROWS[0], "label": n % 2 == 0}) for n in range(6)])
    for options in ({}, {"format": "prompt_completion"}):
        (problem,) = problems_of(file, **options)
        assert problem.what.startswith("has label: preferences are not trained on")
        assert problem.fix == "keep only the rows to learn, and add --ignore-column label"
    named = [{"q": "a", "a": "b", "label": False}]
    assert "has label" in problems_of(named, prompt_column="q", completion_column="a")[0].what


def test_problems_name_the_columns_of_the_user() -> None:
    rows: list[dict[str, Any]] = [{"q": "a", "a": "b"}, {"q": None, "a": "b"}, {"q": 3, "a": "b"}, {"q": "a", "a": " "}]
    found = problems_of(rows, prompt_column="q", completion_column="a")
    assert [problem.what for problem in found] == ["q is empty", "q is int instead of a text", "a is empty"]
    talks = [{"dialog": [{"role": "bot"}]}]
    assert problems_of(talks, messages_column="dialog")[0].what == "dialog, turn 1 has the role 'bot'"


def test_named_columns_win_over_columns_of_formats() -> None:
    row = {"prompt": "draft", "question": "a", "completion": "b", "chosen": "c", "rejected": "d", "system": "s"}
    with pytest.warns(DataWarning, match=r"not used: completion \(1 row\), prompt \(1 row\), rej"):
        examples = reading.read_examples([row], prompt_column="question", completion_column="chosen")
    assert examples == (Example.of_pair("a", "c", "s"),)


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "--completion-column chosen"),
        ({"prompt": "a", "completion": "b", "label": True}, "keep only the rows to learn, and add --ignore-column"),
        ({"instruction": "a", "output": "b", "kto_tag": False}, "keep only the rows to learn, and add --ignore-column"),
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_rows_of_preferences_are_refused_once_with_what_to_do(row: dict[str, Any], fix: str, tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path / "a.jsonl", *[json.dumps(row)] * 40))
    assert "preferences are not trained on" in problem.what
    assert fix in problem.fix


def test_python_rows_are_the_same_data_set_as_their_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *LINES)
    expected = reading.dump_examples(reading.read_examples(file))
    pairs = [(row["prompt"], row["completion"]) for row in ROWS]
    alpaca = [{"instruction": row["prompt"], "input": None, "output": row["completion"]} for row in ROWS]
    named = [{"q": row["prompt"], "a": row["completion"]} for row in ROWS]
    for rows in (ROWS, pairs, EXAMPLES, iter(ROWS), (row for row in alpaca), map(list, pairs), tuple(alpaca)):
        assert reading.dump_examples(reading.read_examples(rows)) == expected
    assert reading.dump_examples(reading.read_examples(named, prompt_column="q", completion_column="a")) == expected


def test_format_is_honored_for_python_rows() -> None:
    quiz = row_formats.RowFormat("quiz", frozenset({"q", "a"}), lambda row: Example.of_pair(row["q"], row["a"]))
    rows = [{"q": "What does a finch eat?", "a": "Seeds.", "text": "whole"}]
    formats = (quiz, *row_formats.BUILTIN)
    with pytest.warns(DataWarning, match="text"):
        assert reading.read_examples(rows, formats=formats) == EXAMPLES[:1]
    with pytest.warns(DataWarning, match="q"):
        assert reading.read_examples(rows, formats=formats, format="text") == (Example(text="whole"),)


def test_names_of_columns_need_not_be_texts() -> None:
    rows = [{"prompt": "a", "completion": "b", 3: "c", None: "d"}]
    with pytest.warns(DataWarning, match=r"not used: 3 \(1 row\), None \(1 row\)"):
        assert reading.read_examples(rows) == (Example.of_pair("a", "b"),)
    assert "the columns are 1, 2" in problems_of([{1: "a", 2: "b"}])[0].what


def test_invalid_python_rows_are_reported_with_their_positions() -> None:
    found = problems_of([("ask", "answer"), ("ask", " "), ("", "answer"), 3, {"messages": []}, "ab"])
    assert sorted(problem.where for problem in found) == [f"example {n}" for n in range(2, 7)]


@pytest.mark.parametrize("nothing", [[], iter(())])
def test_empty_collection_is_refused(nothing: Any) -> None:
    assert problems_of(nothing)[0].what == "has no rows"


def test_mapping_of_splits_is_read_by_split() -> None:
    splits = {"train": ROWS[:1], "validation": ROWS[1:], "test": ROWS}
    assert reading.read_data(splits, also_read="validation").examples == EXAMPLES[:1]
    assert reading.has_validation(splits)
    assert reading.read_examples(splits, split="validation") == EXAMPLES[1:]
    assert not reading.has_validation({"train": ROWS})
    assert "mapping of prompt, completion" in problems_of(ROWS[0])[0].what


def test_empty_and_missing_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty.jsonl", "empty.json", "empty.csv", "empty.csv.gz"):
        (tmp_path / name).write_bytes(b"")
        assert problems_of(tmp_path / name)[0].what == "has no rows"
    assert problems_of(write(tmp_path / "header.csv", "prompt,completion"))[0].what == "has no rows"
    with pytest.raises(errors.NotFound, match=r"empty\.jsonl"):
        reading.read_examples(tmp_path / "emty.jsonl")
    monkeypatch.chdir(tmp_path)
    assert problems_of("")[0].what == "no data is named"


def test_unknown_format_name_offers_a_similar_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({**ROWS[0], "text": "the whole"}))
    assert reading.read_data(file, ReadingConfig(format="text")).examples == (Example(text="the whole"),)
    with pytest.raises(errors.NotFound, match="alpaca"):
        reading.read_examples(file, format="alpacca")


def test_rows_that_lack_the_fields_of_a_named_format_are_told_once(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path / "a.jsonl", *LINES), format="alpaca")
    assert "prompt, completion" in problem.what


def test_compressed_files_are_read_by_their_content(tmp_path: Path) -> None:
    content = write(tmp_path / "a.jsonl", *LINES).read_bytes()
    files = {
        "b.jsonl.gz": gzip.compress(content),
        "c.jsonl.bz2": bz2.compress(content),
        "d.jsonl.xz": lzma.compress(content),
        "e.jsonl.zst": pyarrow.compress(content, codec="zstd", asbytes=True),
        "f.jsonl": gzip.compress(content),  # a suffix that was lost
        "g.jsonl.gz": content,  # decompressed by a browser
        "h.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    }
    for name, compressed in files.items():
        (tmp_path / name).write_bytes(compressed)
        data = reading.read_data(tmp_path / name)
        assert data.examples == EXAMPLES
        assert data.report.recognized == (("decompressed as gzip",) if name == "f.jsonl" else ())


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (
        "\n".join(LINES).encode(),
        json.dumps(ROWS).encode(),
        gzip.compress("prompt;completion\nWhat does a finch eat?;Seeds.\nOù?;Là-bas.\n".encode("cp1252")),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert reading.read_data("-").examples == EXAMPLES
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt\tcompletion\na\tb\n")))
    assert reading.read_examples("-", file_format="tsv") == (Example.of_pair("a", "b"),)


@pytest.mark.parametrize(
    ("name", "content", "needle"),
    [
        ("a.xlsx", b"PK\3\4rest", "save it as CSV"),
        ("a.csv", b"PK\3\4rest", "save it as CSV"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "save it as CSV"),
        ("a.ods", b"no archive", r"is a spreadsheet \(\.ods\).*save it as CSV"),
        ("a.pdf", b"%PDF-1.7", "copy its texts"),
        ("a.docx", b"no archive", r"is a document \(\.docx\)"),
        ("a.zip", b"no archive", "unpack it"),
        ("a.pkl", b"\x80\4", "a pickle, which can run code"),
        ("a.db", b"SQLite format 3\0", "export the rows"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.csv", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.yaml", b"a: b", r"is a \.yaml file, not one of .*\.parquet.*--file-format"),
        ("a.jsonl.gz", b"\x1f\x8b" + b"damaged", "cannot be decompressed with gzip"),
        ("a.parquet", b"PAR1 damaged", "cannot be read"),
        ("a.arrow", b"ARROW1 damaged", "cannot be read"),
        ("a.csv", b"\0\1\2\3" * 20, "zero bytes"),
    ],
)
@pytest.mark.usefixtures("words_of_a_command")
def test_file_that_cannot_be_read_is_refused_with_what_to_do(
    name: str, content: bytes, needle: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.InvalidDataset, match=needle) as caught:
        reading.read_examples(tmp_path / name)
    assert len(caught.value.problems) == 1


def test_unreadable_file_of_a_folder_is_never_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *LINES * 100)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"x" * 100)[:-12])
    (problem,) = problems_of(tmp_path, max_bad_rows=1.0)
    assert problem.where == "b.jsonl.gz"


def test_format_of_a_plugin_is_used_like_a_built_in_one(tmp_path: Path) -> None:
    quiz = row_formats.RowFormat("quiz", frozenset({"q", "a"}), lambda row: Example.of_pair(row["q"], row["a"]))
    file = write(tmp_path / "a.jsonl", json.dumps({"q": "What does a finch eat?", "a": "Seeds.", "n": 1}))
    data = reading.read_data(file, formats=(quiz, *row_formats.BUILTIN))
    assert (data.examples, data.report.unused) == (EXAMPLES[:1], {"n": 1})


def test_row_on_which_a_plugin_fails_is_left_out_without_its_text() -> None:
    def convert(row: Any) -> Example:
        return Example.of_pair(row["q"], row["a"])

    quiz = row_formats.RowFormat("quiz", frozenset({"q"}), convert, plugin="plugin birds 1.0")
    rows = [{"q": "What does a finch eat?", "a": "Seeds."}] * 20 + [{"q": "the patient in room seven"}]
    what = "example 21: cannot be converted: format quiz of plugin birds 1.0 raised KeyError"
    with pytest.warns(DataWarning, match=re.escape(what)) as warned:
        assert len(reading.read_examples(rows, formats=(quiz,), format="quiz")) == 20
    assert "room seven" not in str(warned[0].message)


def test_converter_of_a_plugin_without_end_ends_the_reading_and_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_time, "SECONDS", 1)

    def convert(row: Any) -> Example:
        while row["q"] == "?":
            pass
        return Example.of_pair(row["q"], "Seeds.")

    quiz = row_formats.RowFormat("quiz", frozenset({"q"}), convert, plugin="plugin birds 1.0")
    file = write(tmp_path / "a.jsonl", '{"q": "What does a finch eat?"}', '{"q": "?"}', '{"q": "?"}')
    what = "a.jsonl, line 2: the dataset format quiz of plugin birds 1.0 did not end within 1 s (tell the authors"
    with pytest.raises(errors.TimeLimitReached, match=re.escape(what)):
        reading.read_data(file, formats=(quiz,))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
calls = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), st.integers(), max_size=3).map(
    lambda arguments: {"type": "function", "function": {"name": "f", "arguments": arguments}}
)
answers = st.builds(
    Message,
    role=st.just("assistant"),
    content=texts,
    reasoning=st.none() | texts,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    learn=st.just(True),
)


@given(
    st.lists(
        st.builds(Example.of_pair, texts, texts, st.none() | texts)
        | st.builds(Example, text=texts)
        | st.builds(lambda answer: Example(messages=(Message(role="user", content="a"), answer)), answers),
        min_size=1,
    )
)
def test_dumping_and_loading_returns_the_examples_and_the_same_bytes(examples: list[Example]) -> None:
    data = reading.dump_examples(examples)
    assert [*map(Example.of, data.splitlines())] == examples
    assert reading.dump_examples(map(Example.of, data.splitlines())) == data


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_pairs_of_any_texts_survive_each_kind_of_text_file(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    (folder / "a.jsonl").write_bytes("\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode())
    (folder / "a.json").write_bytes(json.dumps(rows, indent=1).encode("utf-16"))
    expected = tuple(Example.of_pair(*pair) for pair in pairs)
    for name in ("a.jsonl", "a.json"):
        assert reading.read_data(folder / name).examples == expected


@pytest.mark.slow
@settings(max_examples=fuzzing.examples(8))  # a process reads each file
@given(st.lists(st.tuples(texts, texts), min_size=20, max_size=50))
def test_pairs_of_any_texts_survive_a_table(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("data") / "a.parquet"
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert reading.read_data(file).examples == tuple(Example.of_pair(*pair) for pair in pairs)


def test_reading_loads_no_torch() -> None:
    code = (
        "import sys; from finch_hub.engine.data import reading, row_formats;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_suffix_decides_the_file_format_in_any_case(tmp_path: Path) -> None:
    assert reading.read_examples(write(tmp_path / "A.CSV", "prompt,completion", "a,b")) == (Example.of_pair("a", "b"),)


def test_progress_is_told_every_few_thousand_rows(tmp_path: Path) -> None:
    told: list[int] = []
    reading.read_data(write(tmp_path / "a.jsonl", *[LINES[0]] * 25_000), progress=told.append)
    assert told == [10_000, 20_000]


@pytest.mark.parametrize("name", ["b.jsonl", "b.json", "b.parquet"])
@pytest.mark.parametrize("target", ["missing", "x" * 300, "b.json"])
def test_link_of_a_folder_to_a_file_that_is_missing_is_never_left_out(name: str, target: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"prompt": "q", "completion": "a"}')
    (tmp_path / name).symlink_to(target if target != name else tmp_path / name)
    (tmp_path / "notes.md").symlink_to(target)
    with pytest.raises(errors.InvalidDataset, match=rf"{name}: cannot be opened: .*\(fetch the file"):
        reading.read_data(tmp_path)


def test_folder_without_data_files_names_the_suffixes(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "hello")
    with pytest.raises(errors.InvalidDataset, match=r"has no file that can be read: \.jsonl"):
        reading.read_examples(tmp_path)


TEXT = "the patient in room seven takes 40 mg"
INVALID_LINES = [
    json.dumps(row)
    for row in (
        TEXT,
        [TEXT],
        {"prompt": TEXT},
        {"prompt": TEXT, "completion": ""},
        {"prompt": [TEXT], "completion": TEXT},
        {"prompt": {"text": TEXT}, "completion": 1},
        {"messages": TEXT},
        {"messages": [TEXT]},
        {"messages": [{"role": TEXT, "content": "user"}]},
        {"messages": [{"role": {"name": TEXT}, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": TEXT}]}]},
        {"messages": [{"role": "user", "content": [{"type": TEXT, "text": TEXT}]}]},
        {"messages": [{"role": "assistant", "content": TEXT, "tool_calls": [{"text": TEXT}]}]},
        {"messages": [{"role": "assistant", "content": TEXT, "tool_calls": [{"name": "a", "arguments": TEXT}]}]},
        {"messages": [{"role": "user", "content": TEXT}]},
        {"conversations": [{"from": TEXT, "value": "human"}]},
        {"conversations": [{"from": "human", "value": {"text": TEXT}}]},
        {"conversations": [{"from": "function_call", "value": TEXT}]},
        {"instruction": TEXT, "output": ["x"]},
        {"instruction": "x", "output": TEXT, "history": [[TEXT]]},
        {"prompt": TEXT, "completion": "x", "tools": TEXT},
        {"prompt": TEXT, "completion": "x", "weight": TEXT},
        {"prompt": TEXT, "completion": "x", "documents": TEXT},
        {"text": [[TEXT]]},
        {"text": f"{TEXT} \ud800"},
    )
] + [f'{{"prompt": "{TEXT}', f"{TEXT},", f'{{"text": "{TEXT}"}} {TEXT}', f'{{"{TEXT}": 1, "{TEXT}": 2}}']


@pytest.mark.parametrize("line", INVALID_LINES)
def test_problem_of_a_row_does_not_repeat_its_text(tmp_path: Path, line: str) -> None:
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(write(tmp_path / "a.jsonl", line))
    assert "line 1" in str(caught.value) or "item 1" in str(caught.value)
    assert "room seven" not in str(caught.value)


def test_rows_of_examples_are_checked_like_other_rows() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    good = Example.of_pair("a", "b")
    turns = good.messages
    examples = [
        good,
        Example.of_pair("a", "\ud800"),
        Example(text="\udfff"),
        Example(messages=turns, tools=({"name": datetime.date(2024, 1, 1)},)),
        Example(messages=turns, documents=(deep,)),
        Example(messages=(turns[0], turns[1].evolve(tool_calls=({"id": b"x"},)))),
        Example(messages=turns, documents=({"title": "\ud800"},)),
    ]
    data = reading.read_data(examples, ReadingConfig(max_bad_rows=1.0))
    assert data.examples == (good,)
    assert data.report.left_out == 6
    assert data.report.problems[0].startswith("example 2: has half of a surrogate pair")


@pytest.mark.parametrize("depth", [60, 65, 100, 190, 300, 900])
def test_what_is_stored_can_be_read_again(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth - 2):
        deep = {"a": deep}
    call = {"role": "assistant", "tool_calls": [{"name": "a", "arguments": deep}]}
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "b", "documents": [deep]},
        {"prompt": "a", "completion": "b", "tools": [{"name": "c", "parameters": deep}]},
        {"messages": [{"role": "user", "content": "a"}, call]},
    ]
    data = reading.read_data(rows, ReadingConfig(max_bad_rows=1.0))
    assert (*map(Example.of, reading.dump_examples(data.examples).splitlines()),) == data.examples
    assert len(data.examples) == (4 if depth == 60 else 1)


@pytest.mark.parametrize("order", [1, -1])
def test_label_of_an_answer_is_found_in_each_row(order: int) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (1, False, "class 2")][::order]
    data = reading.read_data(rows, ReadingConfig(max_bad_rows=1.0))
    assert (len(data.examples), data.report.left_out) == (2, 1)


def test_names_of_unused_columns_are_bounded_and_can_be_stored() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "completion": "b", "id\0": 1, "id\ud800": 1, f"key {number}": 1} for number in range(3_000)
    ]
    unused = reading.read_data(rows).report.unused
    assert len(unused) == 100
    assert list(unused.items())[:2] == [("id\\ud800", 3_000), ("id\\x00", 3_000)]


def test_names_of_columns_in_problems_can_be_stored() -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "completion": "b"}, {"x\0": 1, "y\udc80": 1}]
    (problem,) = reading.read_data(rows, ReadingConfig(max_bad_rows=1.0)).report.problems
    assert "the columns are x\\x00, y\\udc80" in problem


def test_rows_of_a_mismatch_are_counted_one_by_one(tmp_path: Path) -> None:
    rows = [{"x": "a"}] * 300 + [{"prompt": "a", "completion": ""}] * 30 + ROWS
    with pytest.raises(errors.InvalidDataset, match="300 × fits no format"):
        reading.read_data(write(tmp_path / "a.jsonl", *map(json.dumps, rows)))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_weights_of_a_table_are_honored(suffix: str, tmp_path: Path) -> None:
    if suffix == "csv":
        file = write(tmp_path / "a.csv", "prompt,completion,weight", "a,b,0", "c,d,1", "e,f,1.0", "g,h,0.0", "i,j,")
    else:
        weights = zip("acegi", "bdfhj", ("0", "1", "1.0", "0.0", None), strict=True)
        rows = [json.dumps({"prompt": a, "completion": b, "weight": weight}) for a, b, weight in weights]
        file = write(tmp_path / "a.jsonl", *rows)
    data = reading.read_data(file)
    assert [example.messages[0].content for example in data.examples] == ["c", "e", "i"]
    assert data.report.without_weight == 2


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("é,prompt\n".encode("utf-16")[:-1], None),  # ends inside a character
        ("\ud800".encode("utf-16", "surrogatepass"), None),
        ("é,b\n".encode("utf-32")[:-2], None),
        ("prompt,completion\né,b\n".encode(), "utf-16"),
        ("prompt,completion\né,b\n".encode(), "utf-32"),
        ("prompt,completion\né,b\n".encode(), "utf-32-be"),
        ("prompt,completion\né,b.".encode(), "utf-16-le"),
    ],
)
def test_file_that_is_not_in_its_encoding_is_refused(
    suffix: str, content: bytes, encoding: str | None, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(content)
    options = {"encoding": encoding} if encoding else {}
    with pytest.raises(errors.InvalidDataset, match=r"is not UTF-(16|32)"):
        reading.read_examples(file, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "encoding",
    ["idna", "punycode", "undefined", "unicode_escape", "raw-unicode-escape", "base64", "rot13", "utf-9", "a\0", ""],
)
def test_codec_that_no_file_has_is_refused(encoding: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"is not (a known encoding|an encoding of files)"):
        ReadingConfig(encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-7", "gb18030", "shift_jis", "iso2022_jp", "UTF8", "hz"])
def test_encodings_of_files_can_be_named(encoding: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *LINES, encoding=encoding)
    assert reading.read_data(file, ReadingConfig(encoding=encoding)).examples == EXAMPLES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030", "utf-7", "shift_jis", "iso2022_jp", "hz", "cp037"])
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_a_named_encoding(encoding: str, content: bytes) -> None:
    for file_format in ("jsonl", "json", "csv"):
        config = ReadingConfig(encoding=encoding, file_format=file_format)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            with contextlib.suppress(errors.InvalidDataset):
                reading.read_data("-", config)


def test_row_with_a_list_of_objects_beside_its_texts_is_a_row(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "items": [{"x": 1}]}
    for suffix in ("json", "jsonl"):
        data = reading.read_data(write(tmp_path / f"a.{suffix}", json.dumps(row)))
        assert data.examples == (Example.of_pair("a", "b"),)
        assert data.report.unused == {"items": 1}
    renamed = {"q": "a", "a": "b", "data": [{"x": 1}]}
    config = ReadingConfig(prompt_column="q", completion_column="a")
    file = write(tmp_path / "b.jsonl", json.dumps(renamed))
    assert reading.read_data(file, config).examples == (Example.of_pair("a", "b"),)


def test_files_of_splits_are_named_in_what_is_told_about_them(tmp_path: Path) -> None:
    for name in ("train.jsonl", "validation-0.jsonl", "validation-1.jsonl"):
        write(tmp_path / name, json.dumps({**ROWS[0], "id": 1}))
    train = reading.read_data(tmp_path, ReadingConfig(), also_read="validation")
    assert train.notes == (f"{tmp_path / 'train.jsonl'}: columns and fields that are not used: id (1 row)",)
    held_out = reading.read_data(tmp_path, ReadingConfig(), split="validation")
    assert held_out.notes == (f"{tmp_path}, validation split: columns and fields that are not used: id (2 rows)",)
    rows = [{**ROWS[0], "id": 1}]
    for split in ("train", "validation"):
        data = reading.read_data({"train": rows, "validation": rows}, split=split, also_read="validation")
        assert data.notes == (f"examples, {split} split: columns and fields that are not used: id (1 row)",)


def test_bad_rows_and_unused_columns_are_refused_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({**ROWS[0], "id": 1, "weight": 0}), "{bad", json.dumps(ROWS[1]))
    found = problems_of(file, strict=True, ignore_columns=("topic",))
    assert [problem.where for problem in found] == ["line 2", "id", "weight", "topic"]
    with pytest.raises(errors.InvalidDataset, match="1 of 3 rows cannot be used, which strict=True refuses: 4 problem"):
        reading.read_data(file, ReadingConfig(strict=True, ignore_columns=("topic",)))


@pytest.mark.parametrize("options", [{"encoding": "cp1252"}, {"delimiter": ";"}, {"file_format": "csv"}])
def test_option_of_files_beside_rows_in_python_is_told(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.warns(DataWarning, match=f"a row in Python has no use for {name}"):
        reading.read_examples(ROWS, **options)


def test_option_that_the_format_of_a_file_does_not_have_is_told(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    data = reading.read_data(tmp_path / "a.parquet", ReadingConfig(encoding="cp1252", delimiter=";"))
    assert data.report.recognized == ("Parquet has no use for encoding and delimiter",)
    file = write(tmp_path / "a.jsonl", json.dumps(ROWS[0]))
    assert reading.read_data(file, ReadingConfig(delimiter=";")).report.recognized == ("JSON has no use for delimiter",)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_table_that_pandas_writes_by_default_is_read(suffix: str, indent: int | None, tmp_path: Path) -> None:
    columns = {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}
    lists = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    for table in (columns, lists):
        if indent is None or suffix == ".json":
            file = write(tmp_path / f"a{suffix}", json.dumps(table, indent=indent))
            assert reading.read_examples(file) == EXAMPLES
    named = {"q": ["a", "c"], "r": ["b", "d"]}
    file = write(tmp_path / f"b{suffix}", json.dumps(named))
    read = reading.read_examples(file, prompt_column="q", completion_column="r")
    assert read == (Example.of_pair("a", "b"), Example.of_pair("c", "d"))
    assert reading.read_examples(named, prompt_column="q", completion_column="r") == read


def test_only_data_is_offered_for_a_name_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "prompts-old").mkdir()
    (tmp_path / "prompts.py").touch()
    with pytest.raises(errors.NotFound) as caught:
        reading.read_data(tmp_path / "prompt")
    assert caught.value.near == ()
    write(tmp_path / "prompts-old" / "a.jsonl", json.dumps(ROWS[0]))
    write(tmp_path / "prompts.csv", "a")
    with pytest.raises(errors.NotFound) as caught:
        reading.read_data(tmp_path / "prompt")
    assert set(caught.value.near) == {str(tmp_path / "prompts.csv"), str(tmp_path / "prompts-old")}


@pytest.mark.parametrize("bad", [0, 3, 7])
@pytest.mark.parametrize("form", ["records", "list", "dict", "index", "split", "wrapped", "own name"])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_bad_row_costs_no_table(form: str, bad: int, in_file: bool, tmp_path: Path) -> None:
    """The forms are those of pandas, as `to_json` and `to_dict` write them, and lists that an object holds."""
    rows: list[Any] = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(8)]
    rows[bad] = {"prompt": None, "completion": "c"}
    index = [str(n) if in_file else n for n in range(8)]
    columns = {name: [row[name] for row in rows] for name in ("prompt", "completion")}
    value: Any = {
        "records": rows,
        "list": columns,
        "dict": {name: dict(zip(index, cells, strict=True)) for name, cells in columns.items()},
        "index": dict(zip(index, rows, strict=True)),
        "split": {"index": index, "columns": [*columns], "data": [[*row.values()] for row in rows]},
        "wrapped": {"data": [*rows[:bad], None, *rows[bad + 1 :]]},
        "own name": {"birds": [*rows[:bad], {"prompt": None}, *rows[bad + 1 :]], "version": 3},
    }[form]
    if in_file:
        source: Any = tmp_path / "rows.json"
        source.write_text(json.dumps(value))
    elif form in ("wrapped", "own name"):
        return  # the list itself is given in Python
    else:
        source = value
    with pytest.warns(DataWarning):
        found = reading.read_examples(source, max_bad_rows=0.2)
    assert found == tuple(Example.of_pair(f"p{n}", f"c{n}") for n in range(8) if n != bad)


def test_one_note_is_made_of_many_files(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.csv").write_text("prompt;completion\na;b\n")
    data = reading.read_data(tmp_path)
    (note,) = data.report.recognized
    assert note.startswith("00.csv and 29 more files: columns are separated by the semicolon")
    assert len(data.examples) == 30


@pytest.mark.parametrize("empty", [None, "", [], {}])
@pytest.mark.parametrize("field", ["input", "history", "system", "tools", "documents"])
def test_field_that_is_empty_says_nothing(field: str, empty: object) -> None:
    row = {"instruction": "a", "output": "b"}
    assert reading.read_examples([{**row, field: empty}]) == reading.read_examples([row])


@pytest.mark.parametrize("value", [0, False, 0.0])
@pytest.mark.parametrize("field", ["input", "system", "tools", "documents"])
def test_field_that_is_zero_or_false_is_not_passed_over(field: str, value: object) -> None:
    row = {"instruction": "a", "output": "b", field: value}
    with pytest.raises(errors.InvalidDataset, match=field):
        reading.read_examples([row])


class Odd:
    """A value whose comparison raises, as that of a DataFrame does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    def __hash__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"prompt": "a", "completion": "b", "extra": Odd()}, {}),
        ({"prompt": "a", "completion": "b", 3: "c", "z": "d"}, {"ignore_columns": ("q",)}),
        ({"chosen": "a", "rejected": "b", 3: "c"}, {}),
        ({"prompt": Odd(), "completion": "b"}, {}),
        ({"instruction": "a", "output": "b", "input": Odd()}, {}),
    ],
)
def test_odd_columns_and_values_are_problems_of_their_rows(row: dict[Any, Any], options: ReadingOptions) -> None:
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(errors.InvalidDataset):
        reading.read_examples([row], **options)


def test_standard_input_without_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    with pytest.raises(errors.InvalidDataset, match="has no bytes"):
        reading.read_examples("-")
