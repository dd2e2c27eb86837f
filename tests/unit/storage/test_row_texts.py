"""Texts of rows: found wherever they were copied to, in whatever form, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.engine.data.reading import dump_example
from finch_hub.specs.examples import Example
from finch_hub.storage import log_texts, row_texts
from finch_hub.storage.row_texts import PIECE, WINDOW, RowTexts

TEXT = st.text(min_size=WINDOW, max_size=60)
OTHER = st.text(alphabet="0123456789 ", max_size=200)


def row(prompt: str, answer: str, system: str | None = None) -> bytes:
    pair = Example.of_pair(prompt, answer)
    if system is not None:
        pair = pair.evolve(messages=({"role": "system", "content": system}, *pair.messages))
    return dump_example(pair)


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=WINDOW), before=OTHER, after=OTHER)
def test_text_is_found_in_every_form_at_every_place(text: str, before: str, after: str) -> None:
    texts = RowTexts([json.dumps({"text": text}).encode()])
    for form in (text, json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text)):
        assert texts.are_in([before, f"{before}{form}{after}", after])[1]
        place = len(before.encode())
        found = texts.find_in(f"{before}{form}{after}".encode())
        assert any(place <= at <= place + 1 for at in found)


WORDS = st.lists(st.text(alphabet="abcdeüß\n\"'", min_size=1, max_size=9), min_size=20, max_size=60).map(" ".join)


@given(text=WORDS, begin=st.integers(1, 40), length=st.integers(2 * PIECE + 8, 400), before=OTHER, after=OTHER)
def test_part_of_a_text_is_found_without_its_beginning(
    text: str, begin: int, length: int, before: str, after: str
) -> None:
    texts = RowTexts([json.dumps({"text": text}).encode()])
    part = text[begin:][:length]
    assume(len(part) >= 2 * PIECE)  # then it has a whole piece
    assert texts.are_in([before, f"{before}{part}{after}", after]) == [False, True, False]


def test_end_of_a_text_is_found_and_a_name_within_it_is_not() -> None:
    text = "the finch sings what num_generated_tokens_of_the_longest_answer_in_the_data says"
    texts = RowTexts([json.dumps({"text": text}).encode()])
    assert texts.are_in(["it ended with “the_longest_answer_in_the_data says”"]) == [True]
    assert texts.are_in(["num_generated_tokens_of_the_longest_answer_in_the_data"]) == [False]


def test_pieces_of_texts_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_texts, "_MAX_PIECES", 2)
    monkeypatch.setattr(row_texts, "_BATCH", 1)
    lines = [json.dumps({"text": f"{number} finches sing, and {number} finches do not sing"}) for number in (1, 2, 3)]
    texts = RowTexts(line.encode() for line in lines)
    assert texts.are_in(["1 finches do not sing", "and 1 finches do not sing"]) == [False, True]
    assert texts.are_in(["and 3 finches do not sing", "3 finches sing, and"]) == [False, True]


@given(texts=st.lists(st.text(alphabet="abc", min_size=WINDOW), max_size=5), others=st.lists(OTHER, max_size=5))
def test_other_texts_are_not_found(texts: list[str], others: list[str]) -> None:
    known = RowTexts(json.dumps({"text": text}).encode() for text in texts)
    assert known.are_in(others) == [False] * len(others)
    assert known.are_in(texts) == [True] * len(texts)


@given(rows=st.lists(st.tuples(TEXT, TEXT), max_size=8, unique=True), data=st.data())
def test_rows_are_counted(rows: list[tuple[str, str]], data: st.DataObject) -> None:
    shared = data.draw(st.lists(st.sampled_from(rows), unique=True)) if rows else []
    texts = RowTexts(row(*pair) for pair in rows)
    lines = [row(*pair) for pair in shared] + [row("of another", "data set")]
    assert texts.count_in(lines) == len(shared)
    assert texts.count_in(row(*pair, system="Sing.") for pair in shared) == len(shared)
    assert len(texts) == len(rows)


def test_rows_that_differ_by_their_system_prompt_are_the_same() -> None:
    plain, sung, chirped = (row("Who sings?", "A finch.", system) for system in (None, "Sing.", "Chirp."))
    for known in (plain, sung, chirped):
        assert RowTexts([known]).count_in([plain, sung, chirped]) == 3


def test_roles_system_prompts_and_short_texts_are_not_searched_for() -> None:
    texts = RowTexts([row("Who?", "A finch.", "You are a helpful assistant.")])
    assert texts.are_in(["You are a helpful assistant.", "assistant", "Who?", "A finch."]) == [False] * 4


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[1, 2]\n", b"\xff\xfe\n", b'{"messages": 3, "x": "\\"role\\":\\"system\\""}\n']
)
def test_lines_that_are_no_rows_do_no_harm(line: bytes) -> None:
    assert RowTexts([line]).count_in([line]) == 1


def test_no_rows_are_in_nothing() -> None:
    texts = RowTexts(())
    assert (len(texts), texts.are_in(["", "a text that is long enough"])) == (0, [False, False])
    assert list(texts.find_in(b"a text that is long enough")) == []


def test_lines_of_logs_are_overwritten_at_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_texts, "_CHUNK", 64)
    texts = RowTexts([b'{"text":"the secret of the finches"}'])
    lines = [f"line {number} {'x' * (7 * number % 90)}" for number in range(50)]
    for number in (0, 7, 8, 23, 49):
        lines[number] += " the secret of the finches, the secret of the finches"
    file = tmp_path / "worker.log.1"
    file.write_text("\n".join(lines))
    with file.open("a") as other:  # a process that logs meanwhile
        assert log_texts.remove_from_logs(tmp_path, texts) == 5
        other.write("\nnew line")
    found = file.read_text().split("\n")
    expected = ["*" * len(line) if "secret" in line else line for line in lines]
    assert found == [*expected, "new line"]
    assert log_texts.remove_from_logs(tmp_path, texts) == 0
    assert log_texts.remove_from_logs(tmp_path / "missing", texts) == 0


def test_log_that_cannot_be_changed_is_named_and_folders_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "old.log").mkdir()
    texts = RowTexts([row("What does the finch eat?", "Seeds and buds.")])
    assert log_texts.remove_from_logs(tmp_path, texts) == 0
    (tmp_path / "kept").write_text("What does the finch eat?\n")
    (tmp_path / "worker.log").symlink_to(tmp_path / "kept")
    with pytest.raises(errors.Unavailable, match=r"from the log .*worker\.log: .* purge again"):
        log_texts.remove_from_logs(tmp_path, texts)
