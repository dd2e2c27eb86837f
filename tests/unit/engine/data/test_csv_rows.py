"""Rows of tables in text files."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.engine.data import csv_rows
from finch_hub.engine.data.row import MAX_LINE, Row


def open_text(text: str | bytes) -> io.TextIOWrapper:
    content = text if isinstance(text, bytes) else text.encode()
    return io.TextIOWrapper(io.BytesIO(content), "utf-8", errors="surrogateescape", newline="")


def rows_of(text: str | bytes, delimiter: str = ",") -> list[Row]:
    return list(csv_rows.read_csv(open_text(text), delimiter))


def values_of(text: str | bytes, delimiter: str = ",") -> list[object]:
    return [row.value for row in rows_of(text, delimiter)]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("prompt,completion\na,b\n", ","),
        ("prompt;completion\na, b, c;d, e\n", ";"),
        ("prompt\tcompletion\na, b\tc; d\n", "\t"),
        ("prompt|completion\na, b|c; d\n", "|"),
        ('prompt;completion\n"a;\nb, c";"d"\n', ";"),
        ("id;customer, name;reply\n1;a;b\n2;c;d\n", ";"),
        ("sep=;\nprompt;completion\na,b;c,d\n", ";"),
        ("Sep=^\nprompt^completion\na,b^c,d\n", "^"),
        ("sep=,\r\nprompt,completion\r\na;b,c\r\n", ","),
        ("\ufeffprompt;completion\na;b\n", ";"),
        ("text\n", ","),
        ("", ","),
        ('"prompt";"completion"\n"never closed;b\n', ";"),
        ("prompt;completion\n" + "word, " * 20_000 + ";b\n", ";"),
    ],
)
def test_delimiter_is_recognized(text: str, delimiter: str) -> None:
    stream = open_text(text)
    assert csv_rows.recognize_delimiter(stream).character == delimiter
    assert stream.read() == text


def test_table_of_one_column_has_any_delimiter_that_leaves_its_texts_whole() -> None:
    text = "text\nOne, two; three\nFour\n"
    delimiter = csv_rows.recognize_delimiter(open_text(text))
    assert delimiter.label == ""
    assert values_of(text, delimiter.character) == [{"text": "One, two; three"}, {"text": "Four"}]


def test_cell_is_a_text_and_an_empty_cell_is_null() -> None:
    text = 'prompt,completion\n1,"[{""a"": 1}]"\ntrue,\nnull,007\n'
    assert values_of(text) == [
        {"prompt": "1", "completion": '[{"a": 1}]'},
        {"prompt": "true", "completion": None},
        {"prompt": "null", "completion": "007"},
    ]


def test_quoted_newlines_and_replacement_characters_belong_to_the_text() -> None:
    assert values_of('prompt,completion\r\n"a\nb\r\nc",\ufffd\r\n') == [{"prompt": "a\nb\r\nc", "completion": "\ufffd"}]


def test_blank_rows_and_columns_of_spreadsheets_are_passed_over() -> None:
    text = "sep=;\n prompt ;completion;;\na;b;;\n;;;\n\n ; ;;\nc;d;;\n;;;\n"
    assert values_of(text, ";") == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


def test_blank_after_each_delimiter_of_the_header_is_no_part_of_the_texts() -> None:
    assert values_of('prompt, completion\n"a, b", "c"\n') == [{"prompt": "a, b", "completion": "c"}]
    assert values_of("prompt,completion\na, c\n") == [{"prompt": "a", "completion": " c"}]


def test_row_with_other_fields_than_the_header_is_reported_by_its_line() -> None:
    rows = rows_of("prompt,completion\na,b\nonly one\na,b,c\nd,e\n")
    assert [(row.where, row.value is None) for row in rows] == [
        ("line 2", False),
        ("line 3", True),
        ("line 4", True),
        ("line 5", False),
    ]
    assert rows[2].problem == "has 3 fields, but the header has 2"


def test_row_of_several_lines_has_the_number_of_its_first_line() -> None:
    rows = rows_of('prompt,completion\n"a\nb","c\n\nd"\n"one\nfield"\ne,f\n')
    assert [row.where for row in rows] == ["line 2", "line 6", "line 8"]


def test_line_in_another_encoding_is_reported_by_its_line() -> None:
    rows = rows_of(b"prompt,completion\na,b\n\xff,b\nc,d\n")
    assert [(row.where, row.problem[:16]) for row in rows if row.value is None] == [("line 3", "is not UTF-8, or")]


def test_unreadable_row_is_reported_with_its_first_and_last_line_and_counts_as_all_of_them() -> None:
    text = 'prompt,completion\na,b\n"c"x,d\n"e"x,f\ng,h\n"never closed,i\nj,k\nl,m\n'
    unread = [row for row in rows_of(text) if row.value is None]
    assert [(row.where, row.lines) for row in unread] == [("line 3", 1), ("line 4", 1), ("lines 6 to 8", 3)]


def test_cell_can_be_as_long_as_a_line() -> None:
    (row,) = rows_of(f"prompt,completion\n{'word ' * 100_000},b\n")
    assert isinstance(row.value, dict)
    assert len(row.value["prompt"]) == 500_000
    (row,) = rows_of(f"prompt,completion\n{'x' * MAX_LINE},b\n")
    assert row.value is None


def test_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(errors.InvalidDataset, match="has the column prompt twice"):
        rows_of("prompt,completion,prompt\na,b,c\n")


def test_lines_may_end_as_on_old_systems() -> None:
    assert values_of("prompt,completion\ra,b\rc,d\r") == [
        {"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d"},
    ]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.sampled_from(",;\t|"), st.booleans())
def test_table_of_any_texts_is_read_as_it_was_written(
    rows: list[tuple[str, str]], delimiter: str, is_quoted: bool
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL)
    writer.writerows([("prompt", "completion"), *rows])
    stream = open_text(written.getvalue())
    if "sep=" not in written.getvalue():
        assert csv_rows.recognize_delimiter(stream).character == delimiter
    found = [row.value for row in csv_rows.read_csv(stream, delimiter)]
    assert found == [{"prompt": prompt, "completion": completion} for prompt, completion in rows]


@given(st.text(max_size=60), st.sampled_from(",;\t|"))
def test_any_text_is_read_or_reported(text: str, delimiter: str) -> None:
    try:
        rows = rows_of(text.encode(errors="replace"), delimiter)
    except errors.InvalidDataset:
        return
    assert all(row.value is not None or row.problem for row in rows)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (",prompt,,completion", ["column 1", "prompt", "column 3", "completion"]),
        ("prompt,,completion,,x", ["prompt", "column 2", "completion", "column 4", "x"]),
        (",column 1,a", ["column 1_", "column 1", "a"]),
        ("a,,b", ["a", "column 2", "b"]),
    ],
)
def test_columns_without_a_name_keep_their_cells(header: str, names: list[str]) -> None:
    cells = [str(number) for number in range(len(names))]
    stream = io.TextIOWrapper(io.BytesIO(f"{header}\n{','.join(cells)}\n".encode()), "utf-8", newline="")
    (row,) = csv_rows.read_csv(stream, ",")
    assert row.value == dict(zip(names, cells, strict=True))


def test_advice_fits_rows_with_too_many_and_too_few_fields() -> None:
    few, many = (row for row in rows_of("a;b;c\n1;2\n1;2;3;4\n", ";"))
    assert (few.problem, few.fix) == (
        "has 2 fields, but the header has 3",
        "add the missing fields, or quote a text that goes over several lines",
    )
    assert (many.problem, many.fix) == (
        "has 4 fields, but the header has 3",
        "quote texts that contain a semicolon or a line break",
    )


@pytest.mark.parametrize(("text", "delimiter"), [("a;b\n1;2\n", ","), ("\n\na\tb\n1\t2\n", ";"), ("a|b\n1|2\n", "#")])
@pytest.mark.usefixtures("words_of_a_command")
def test_delimiter_that_the_header_lacks_is_refused(text: str, delimiter: str) -> None:
    stream = io.StringIO(text)
    with pytest.raises(errors.InvalidDataset, match=r"in its first line .leave out --delimiter"):
        csv_rows.check_delimiter(stream, delimiter)
    assert stream.tell() == 0


@pytest.mark.parametrize(
    ("text", "delimiter"), [("text\nab\n", ";"), ("a;b,c\n1;2,3\n", ","), ("", ";"), ("a#b\n1#2", "#")]
)
def test_delimiter_that_can_be_right_is_taken(text: str, delimiter: str) -> None:
    csv_rows.check_delimiter(io.StringIO(text), delimiter)


@pytest.mark.parametrize("header", [b"prompt,completion\xff", b'"prompt" x,completion', b'prompt,"completion'])
def test_damaged_header_is_refused_and_no_row_takes_its_place(header: bytes) -> None:
    with pytest.raises(errors.InvalidDataset, match=r"line.* has a header that is not"):
        rows_of(header + b"\n" + b"a,b\n" * 3)


def test_rest_of_a_damaged_row_is_no_row() -> None:
    text = 'prompt;completion\na;b\n"one "two\nthree";four\nc;d 5"\ne;"f ""g"""\n'
    good, damaged, rest, *others = rows_of(text, ";")
    assert good.value == {"prompt": "a", "completion": "b"}
    assert (damaged.value, rest.value) == (None, None)
    assert (damaged.where, rest.where) == ("line 3", "line 4")
    assert "rest of the row before" in rest.problem
    assert [row.value for row in others][-1] == {"prompt": "e", "completion": 'f "g"'}


def test_header_of_many_columns_without_a_name_takes_linear_time() -> None:
    (row,) = rows_of("," * 300_000 + "prompt\n" + "," * 300_000 + "a\n")  # by comparisons of all, an hour
    assert isinstance(row.value, dict)
    assert (len(row.value), row.value["column 2"], row.value["prompt"]) == (300_001, None, "a")
