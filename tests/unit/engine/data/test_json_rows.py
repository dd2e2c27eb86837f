"""Rows of JSON Lines and of JSON documents."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.engine.data import json_rows
from finch_hub.engine.data import row as row_module
from finch_hub.engine.data.row import MAX_LINE, Row

A, B = {"prompt": "a", "completion": "b"}, {"prompt": "c\n{", "completion": '["d"], }'}
LINES = f"{json.dumps(A)}\n{json.dumps(B)}\n"


def rows_of(text: str | bytes, *, prefers_document: bool = False) -> list[Row]:
    content = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
    stream = io.TextIOWrapper(io.BytesIO(content), "utf-8", errors="surrogateescape", newline="")
    return list(
        json_rows.read_json(stream, prefers_document=prefers_document, is_row=lambda value: A.keys() <= value.keys())
    )


@pytest.mark.parametrize("prefers_document", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        LINES.rstrip("\n"),
        LINES + "\n \n",
        LINES.replace("}\n", "},\n"),
        "\ufeff" + LINES,
        json.dumps([A, B]),
        json.dumps([A, B], indent=2),
        f"[{json.dumps(A)},\n{json.dumps(B)}]\n",
        f"[\n{json.dumps(A)},\n{json.dumps(B)},\n]\n",
        json.dumps({"version": 1, "data": [A, B]}),
        json.dumps({"rows": [A, B]}, indent=1),
        f"{json.dumps(A, indent=1)}\n{json.dumps(B, indent=1)}\n",
        f"{json.dumps(A, indent=1)},\n{json.dumps(B, indent=1)},\n",
    ],
)
def test_layouts_of_json_hold_the_same_rows(text: str, prefers_document: bool) -> None:
    assert [row.value for row in rows_of(text, prefers_document=prefers_document)] == [A, B]


def test_one_object_is_one_row() -> None:
    for text in (json.dumps(A), json.dumps(A, indent=2)):
        assert [row.value for row in rows_of(text)] == [A]
    row = {"messages": [{"role": "user", "content": "a"}]}
    assert [row.value for row in rows_of(json.dumps(row), prefers_document=True)] == [row]


def test_lists_that_are_no_rows_stay_in_their_object() -> None:
    values: list[Any] = [{"data": [1, 2]}, {"data": []}, {"data": {"a": 1}}, {"turns": [{"role": "x"}]}]
    for value in values:
        assert [row.value for row in rows_of(json.dumps(value))] == [value]


def test_list_of_rows_under_any_name_is_read() -> None:
    for prefers_document in (False, True):
        rows = rows_of(json.dumps({"train": [A, B], "tags": [{"x": 1}]}), prefers_document=prefers_document)
        assert [row.value for row in rows] == [A, B]


def test_several_lists_of_rows_are_refused_by_name() -> None:
    for name in ("rows", "validation"):
        with pytest.raises(errors.InvalidDataset, match=f"has several lists of rows: data, {name} .write"):
            rows_of(json.dumps({"data": [A], name: [B]}, indent=1), prefers_document=True)


@pytest.mark.parametrize("prefers_document", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
def test_thousands_of_lists_of_rows_are_named_in_short(indent: int | None, prefers_document: bool) -> None:
    text = json.dumps({f"{'name' * 20} {number}": [A] for number in range(5_000)}, indent=indent)
    with pytest.raises(errors.InvalidDataset, match="has several lists of rows: ") as caught:
        rows_of(text, prefers_document=prefers_document)
    assert len(str(caught.value)) < 1_200


def nested(depth: int) -> str:
    return '{"a": ' * (depth // 2) + "[" * (depth // 2) + "]" * (depth // 2) + "}" * (depth // 2)


@pytest.mark.parametrize("depth", [100, 600, 800])
@pytest.mark.parametrize("damaged", ["", '{"a": 1, "a": 2}', '{"n": ' + "1" * 5_000 + "}"])
@pytest.mark.parametrize("form", ['{"data": [%s]}', '{\n"version": {"a": [1]}, "data": [%s]}', "[%s]"])
def test_deep_values_of_a_document_are_read_also_beside_damage(form: str, damaged: str, depth: int) -> None:
    deep = f'{{"prompt": "a", "completion": "b", "meta": {nested(depth)}}}'
    rows = rows_of(form % ", ".join(filter(None, (deep, damaged))), prefers_document=True)
    assert [row.value is None for row in rows] == [False, True][: len(rows)]
    assert len(rows) == 1 + bool(damaged)


@pytest.mark.parametrize(
    "text",
    [
        '{"data": [{"a": 1, "a": 2}], "x": ' + "[" * 100_000,
        '{"data": [{"a": 1, "a": 2}], "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"data": [{"n": ' + "1" * 5_000 + '}], "x": ' + '{"y":' * 100_000,
        "[" + '{"a": 1, "a": 2, "x": ' + "[" * 100_000,
        '{"x": {"a": 1, "a": 2}}\n{"x": ' + "[" * 100_000,
    ],
)
def test_what_is_nested_too_deeply_behind_damage_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidDataset, match="is nested too deeply"):
        rows_of(text, prefers_document=True)


def test_key_that_an_object_of_a_wrapper_has_twice_is_one_problem() -> None:
    good = json.dumps(A)
    for damaged in (
        '{"prompt": "a", "prompt": "b"}',
        '{"prompt": {"x": [{"y": 1, "y": 2}]}}',
        f'{{"n": {"1" * 5000}}}',
    ):
        rows = rows_of(f'{{"version": 1, "data": [{good}, {damaged}, {good}]}}', prefers_document=True)
        assert [row.value for row in rows] == [A, None, A]
        assert rows[1].where == "item 2"


def test_blank_lines_between_rows_are_passed_over_and_counted() -> None:
    rows = rows_of(f"\n{json.dumps(A)}\n\n \t\r\n{json.dumps(B)}\n\n{{bad\n\n")
    assert [(row.where, row.value) for row in rows] == [("line 2", A), ("line 5", B), ("line 7", None)]


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("{bad", "is not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("3", "is a int, not an object"),
        ("null", "is null, not an object"),
        ('{"a": 1} {"a": 2}', "is not JSON: Extra data"),
        ('{"a": 1, "a": 2}', "an object has a key twice"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"prompt": "\xff"}'.decode(errors="surrogateescape"), "is not UTF-8 at character 13"),
        ("x" * (MAX_LINE + 5), f"is longer than {MAX_LINE:,} characters"),
        ("x" * (2 * MAX_LINE + 5), f"is longer than {MAX_LINE:,} characters"),
    ],
)
def test_invalid_line_is_reported_and_the_next_one_read(line: str, needle: str) -> None:
    first, invalid, last = rows_of(f"{json.dumps(A)}\n{line}\n{json.dumps(B)}\n")
    assert (first.value, last.value) == (A, B)
    assert (invalid.where, invalid.value) == ("line 2", None)
    assert needle in invalid.problem


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ('[{"a": 1}, {"a": ', r"item 2: is not JSON"),
        ('[{"a": 1}', r"item 2: is not JSON"),
        ('[{"a": 1}] {"a": 2}', "has text after the list"),
        ('[{"a": 1 "b": 2}]', "item 1: is not JSON"),
        ("[" * 100_000, "item 1: is nested too deeply"),
    ],
)
def test_document_that_is_not_json_is_refused_by_its_item(text: str, needle: str) -> None:
    with pytest.raises(errors.InvalidDataset, match=needle):
        rows_of(text)


def test_item_that_is_not_an_object_is_reported() -> None:
    rows = rows_of(json.dumps([A, 3, None, B]))
    assert [(row.where, row.value) for row in rows] == [
        ("item 1", A),
        ("item 2", None),
        ("item 3", None),
        ("item 4", B),
    ]


def test_long_list_is_read_in_chunks_on_one_line_or_many() -> None:
    long = {"text": "x" * 100_000}
    for indent in (None, 1):
        text = json.dumps([long] * 60, indent=indent)  # more than the longest line
        assert [row.value for row in rows_of(text)] == [long] * 60


def test_item_that_never_ends_is_refused_before_all_of_it_is_read() -> None:
    with pytest.raises(errors.InvalidDataset, match="item 1"):
        rows_of('[{"text": "' + "x" * (3 * MAX_LINE))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)
objects = st.lists(st.dictionaries(st.sampled_from("abcde"), values, min_size=1, max_size=3), min_size=1, max_size=5)


@given(objects, st.sampled_from([None, 0, 2]), st.booleans())
def test_any_objects_are_read_from_a_list_and_from_lines(
    rows: list[dict[str, Any]], indent: Any, is_ascii: bool
) -> None:
    for text in (
        json.dumps(rows, indent=indent, ensure_ascii=is_ascii),
        "".join(f"{json.dumps(row, ensure_ascii=is_ascii)}\n" for row in rows),
    ):
        assert [row.value for row in rows_of(text)] == rows


@given(st.text(alphabet='{}[]",:ab1 \n', max_size=40), st.booleans())
def test_any_text_is_read_or_reported(text: str, prefers_document: bool) -> None:
    try:
        rows = rows_of(text, prefers_document=prefers_document)
    except errors.InvalidDataset:
        return
    assert all(row.value is not None or row.problem for row in rows)


@pytest.mark.parametrize("damaged", ['{"prompt": "a", "prompt": "b", "completion": "c"}', '{"n": ' + "1" * 5_000 + "}"])
@pytest.mark.parametrize("form", ["[%s]", "[\n%s\n]", "%s"])
def test_item_that_cannot_be_used_is_one_row(damaged: str, form: str) -> None:
    items = [json.dumps(A)] * 3
    for place in range(4):
        text = form % ",\n".join([*items[:place], damaged, *items[place:]])
        rows = rows_of(text, prefers_document=True)
        assert [row.value for row in rows] == [A] * place + [None] + [A] * (3 - place)
        assert rows[place].problem.startswith("is not JSON")


def test_item_that_cannot_be_used_may_be_longer_than_what_is_read_at_once() -> None:
    damaged = '{"a": {"k": 1, "k": 2}, "text": "' + "x" * 200_000 + '"}'
    rows = rows_of(f"[{json.dumps(A)}, {damaged}, {json.dumps(B)}]")
    assert [row.value for row in rows] == [A, None, B]
    with pytest.raises(errors.InvalidDataset, match="item 1"):
        rows_of('[{"a": {"k": 1, "k": 2}, "text": "')


@pytest.mark.parametrize(
    "damaged",
    [
        '{"prompt": "a", "completion": "b"',
        '{"prompt": "a", "comple',
        "{'prompt': 'a'}",
        "prompt: a",
        '{"prompt": "a" "completion": "b"}',
        '{"a": 1, "a": 2}',
    ],
)
def test_first_line_that_is_damaged_is_one_row(damaged: str) -> None:
    for prefers_document in (True, False):
        rows = rows_of(f"{damaged}\n{LINES}", prefers_document=prefers_document)
        assert [row.value for row in rows] == [None, A, B]


def test_first_line_of_an_object_with_its_rows_in_lines_is_no_row() -> None:
    for begin in ('{"data": [', '{"version": 1, "data": [', '{"version": 1,\n"data": [', '{"version": 1, "data":\n['):
        text = begin + "\n" + json.dumps(A) + ",\n" + json.dumps(B) + "\n]}"
        assert [row.value for row in rows_of(text, prefers_document=True)] == [A, B]


@pytest.mark.parametrize("name", ["data", "rows", "examples", "items", "records", "instances"])
def test_row_with_a_list_of_objects_is_a_row(name: str) -> None:
    row = {**A, name: [{"x": 1}, {"x": 2}]}
    for text in (json.dumps(row), json.dumps(row, indent=1), json.dumps([row])):
        for prefers_document in (False, True):
            assert [found.value for found in rows_of(text, prefers_document=prefers_document)] == [row]


@pytest.mark.slow
def test_object_of_many_small_values_is_refused_before_it_takes_all_memory() -> None:
    """Some kilobytes can decompress to a gigabyte of such values, which would take a hundred times as much."""
    with pytest.raises(errors.InvalidDataset, match=r"is an object of more than .* 8,388,608 values") as caught:
        rows_of('{"data": [' + "[]," * 2**23 + "[]]}", prefers_document=True)
    assert "write one list of objects" in str(caught.value)


def test_empty_lines_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_module, "_MAX_EMPTY", 100)
    line = f"{json.dumps(A)}\n"
    assert len(rows_of(line + "\n" * 100 + line)) == 2
    for text in ("\n" * 101, line + " \n" * 101 + line):
        with pytest.raises(errors.InvalidDataset, match="more than 100 empty lines in a row"):
            rows_of(text)
