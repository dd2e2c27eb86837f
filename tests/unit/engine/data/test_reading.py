"""Datasets read from files and folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from finch_hub import errors
from finch_hub.engine.data import reading, row_formats
from finch_hub.engine.data.row_readers import MAX_LINE_BYTES
from finch_hub.specs.examples import Example

ROWS = [{"prompt": "What does a finch eat?", "completion": "Seeds."}, {"prompt": "Où?", "completion": "Là-bas."}]
EXAMPLES = tuple(Example.of_pair(row["prompt"], row["completion"]) for row in ROWS)


def write(path: Path, *lines: str) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def test_jsonl_json_and_csv_hold_the_same_examples(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", *(json.dumps(row) for row in ROWS))
    whole = write(tmp_path / "a.json", json.dumps(ROWS))
    table = write(tmp_path / "a.csv", "prompt,completion", *(f'"{r["prompt"]}","{r["completion"]}"' for r in ROWS))
    assert reading.read_examples(jsonl) == reading.read_examples(whole) == reading.read_examples(table) == EXAMPLES


def test_parquet_and_arrow_files_are_read(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert reading.read_examples(tmp_path / "a.parquet") == EXAMPLES
    assert reading.read_examples(tmp_path / "b.arrow") == EXAMPLES


def test_read_of_a_folder_takes_the_train_split_without_metadata_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000-of-00002.jsonl", json.dumps(ROWS[0]))
    write(tmp_path / "data" / "train-00001-of-00002.jsonl", json.dumps(ROWS[1]))
    write(tmp_path / "data" / "test-00000-of-00001.jsonl", json.dumps({"prompt": "p", "completion": "c"}))
    write(tmp_path / "dataset_info.json", "{}")
    assert reading.read_examples(tmp_path) == EXAMPLES
    assert not reading.has_validation(tmp_path)


@pytest.mark.parametrize("name", ["validation-00000-of-00001.jsonl", "dev.jsonl", "val/rows.jsonl", "Valid_1.jsonl"])
def test_read_of_a_folder_takes_its_validation_split(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name, json.dumps(ROWS[0]))
    write(tmp_path / "values.jsonl", json.dumps(ROWS[1]))
    write(tmp_path / "train.jsonl", json.dumps(ROWS[1]))
    assert reading.has_validation(tmp_path)
    assert reading.read_examples(tmp_path, split="validation") == EXAMPLES[:1]
    assert reading.read_examples(tmp_path) == EXAMPLES[1:]


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["birds", "validation"], ["birds", "validation"], []),  # without a name "train" there are no splits
        (["dev", "hr", "ops"], ["dev", "hr", "ops"], []),
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

    def read(split: reading.Split) -> list[str]:
        return [example.messages[0].content for example in reading.read_examples(tmp_path, split=split)]

    assert read("train") == train
    assert reading.has_validation(tmp_path) == bool(validation)
    if validation:
        assert read("validation") == validation


def test_every_invalid_line_is_reported_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "invalid.jsonl"
    good = json.dumps(ROWS[0]).encode()
    lines = [
        good,
        b"",
        b"{bad",
        b'{"prompt": "", "completion": "x"}',
        b'{"completion": "x"}',
        b'{"prompt": "\xff", "completion": "x"}',
        b"[1]",
        b'{"messages": [{"role": "bot", "content": "x"}]}',
        b'{"prompt": "\\ud800", "completion": "x"}',
        b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'", "completion": "x"}',
        b"[" * 100_000,
        good,
        b"",
    ]
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(file)
    assert [problem.where for problem in caught.value.problems] == [f"line {n}" for n in range(2, 12)]
    for needle in ("empty", "not JSON", "prompt is empty", "no 'prompt'", "UTF-8", "not an object", "'bot'", "MiB"):
        assert needle in str(caught.value)


def test_line_after_an_overlong_line_is_still_read(tmp_path: Path) -> None:
    file = tmp_path / "giant.jsonl"
    file.write_bytes(b"x" * (2 * MAX_LINE_BYTES + 5) + b"\n{bad\n")
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(file)
    assert [problem.where for problem in caught.value.problems] == ["line 1", "line 2"]


def test_byte_order_mark_and_blank_lines_at_the_end_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "bom.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\n\n\n")
    assert reading.read_examples(file) == EXAMPLES[:1]


def test_csv_reports_ragged_and_undecodable_rows(tmp_path: Path) -> None:
    file = tmp_path / "invalid.csv"
    file.write_bytes(b"prompt,completion\na,b\nonly one\n\xff,b\na,b,c\n")
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(file)
    assert [problem.where for problem in caught.value.problems] == ["line 3", "line 4", "line 5"]


def test_messages_in_a_csv_cell_are_read_as_json(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]).replace('"', '""')
    assert reading.read_examples(write(tmp_path / "a.csv", "messages", f'"{turns}"')) == (Example.of_pair("Hi", "Yo"),)


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidDataset, match="has no rows"):
        reading.read_examples(write(tmp_path / "empty.jsonl"))
    with pytest.raises(errors.NotFound, match=r"empty\.jsonl"):
        reading.read_examples(tmp_path / "emty.jsonl")


def test_unknown_format_name_offers_a_similar_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({**ROWS[0], "text": "the whole"}))
    assert reading.read_examples(file, format_name="text") == (Example(text="the whole"),)
    with pytest.raises(errors.NotFound, match="alpaca"):
        reading.read_examples(file, format_name="alpacca")


def test_format_of_a_plugin_is_used_like_a_built_in_one(tmp_path: Path) -> None:
    quiz = row_formats.RowFormat("quiz", frozenset({"q", "a"}), lambda row: Example.of_pair(row["q"], row["a"]))
    file = write(tmp_path / "a.jsonl", json.dumps({"q": "What does a finch eat?", "a": "Seeds."}))
    assert reading.read_examples(file, formats=(quiz, *row_formats.BUILTIN)) == EXAMPLES[:1]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.lists(st.builds(Example.of_pair, texts, texts, st.none() | texts) | st.builds(Example, text=texts), min_size=1)
)
def test_dumping_and_loading_returns_the_examples_and_the_same_bytes(examples: list[Example]) -> None:
    data = reading.dump_examples(examples)
    assert reading.load_examples(data) == tuple(examples)
    assert reading.dump_examples(reading.load_examples(data)) == data


def test_reading_loads_no_torch() -> None:
    code = (
        "import sys; from finch_hub.engine.data import reading, row_formats, splitting;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unreadable_csv_row_is_reported_with_its_first_and_last_line(tmp_path: Path) -> None:
    file = write(
        tmp_path / "invalid.csv", "prompt,completion", "a,b", '"c"x,d', '"e"x,f', "g,h", '"never closed,i', "j,k"
    )
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(file)
    assert [problem.where for problem in caught.value.problems] == ["line 3", "line 4", "lines 6 to 7"]


def test_csv_field_can_be_as_long_as_a_line(tmp_path: Path) -> None:
    file = write(tmp_path / "long.csv", "prompt,completion", f"{'word ' * 100_000},b")
    assert len(reading.read_examples(file)[0].messages[0].content) == 500_000


def test_suffix_decides_the_file_format_in_any_case(tmp_path: Path) -> None:
    assert reading.read_examples(write(tmp_path / "A.CSV", "prompt,completion", "a,b")) == (Example.of_pair("a", "b"),)
    bom = tmp_path / "a.json"
    bom.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert reading.read_examples(bom) == EXAMPLES
    for name in ("a.tsv", "a.jsonl.gz"):
        with pytest.raises(errors.InvalidDataset, match=rf"is a {Path(name).suffix} file, .*\.parquet") as caught:
            reading.read_examples(write(tmp_path / name, *(["x\ty"] * 9)))
        assert len(caught.value.problems) == 1


def test_cache_files_of_datasets_are_ignored(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    for name in ("data-00000-of-00001.arrow", "cache-1234567890abcdef.arrow"):
        with pyarrow.OSFile(str(tmp_path / name), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    assert reading.read_examples(tmp_path) == EXAMPLES


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
        {"messages": [{"role": "assistant", "content": TEXT, "tool_calls": [{"name": TEXT}]}]},
        {"messages": [{"role": "user", "content": TEXT}]},
        {"conversations": [{"from": TEXT, "value": "human"}]},
        {"conversations": [{"from": "human", "value": {"text": TEXT}}]},
        {"instruction": TEXT, "output": ["x"]},
        {"instruction": "x", "output": TEXT, "history": [[TEXT]]},
        {"text": [TEXT]},
        {"text": f"{TEXT} \ud800"},
    )
] + [f'{{"prompt": "{TEXT}', f"{TEXT},", f'{{"text": "{TEXT}"}} {TEXT}']


@pytest.mark.parametrize("line", INVALID_LINES)
def test_problem_of_a_row_does_not_repeat_its_text(tmp_path: Path, line: str) -> None:
    with pytest.raises(errors.InvalidDataset) as caught:
        reading.read_examples(write(tmp_path / "a.jsonl", line))
    assert "line 1" in str(caught.value)
    assert "room seven" not in str(caught.value)
