"""`finch-hub chat` in this process, with turns from standard input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.specs.examples import Message

from .conftest import Run


def talk(monkeypatch: pytest.MonkeyPatch, *turns: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{turn}\n" for turn in turns)))


def test_conversation_goes_on_until_it_is_reset(run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("chat", "--base", tiny_folder, "--max-new-tokens", 4)
    talk(monkeypatch, "What is a finch?", "/reset", "What is a finch?", "/quit", "Never read")
    ran = run(*command)
    assert ran.status == 0, ran.err
    first, second = ran.out.splitlines()
    assert first == second
    generated = run("generate", "What is a finch?", "--base", tiny_folder, "--max-new-tokens", 4).out
    assert first == generated.rstrip("\n")


def test_several_answer_with_their_names(run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(monkeypatch, "Hi")
    ran = run("chat", "base", "--with", "base", "--base", tiny_folder, "--max-new-tokens", 1)
    assert "[base]" not in ran.out  # one alone needs no name
    talk(monkeypatch, "/help")
    assert "/reset begins anew" in run("chat", "--base", tiny_folder).err


def test_turn_that_fills_the_context_is_refused_and_the_chat_goes_on(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(monkeypatch, "word " * 5000, "Hi")
    ran = run("chat", "--base", tiny_folder, "--max-new-tokens", 1)
    assert ran.status == 0
    assert "(/reset begins anew)" in ran.err
    assert len(ran.out.splitlines()) == 1


def answer_with(monkeypatch: pytest.MonkeyPatch, *answers: list[str | None]) -> list[tuple[Message, ...]]:
    """Let the model give these pieces, None for Ctrl-C. Return the list of the conversations that it gets."""
    asked: list[tuple[Message, ...]] = []

    def generate(model: object, said: tuple[Message, ...], **options: Any) -> Iterator[str]:
        asked.append(said)
        for piece in answers[len(asked) - 1]:
            if piece is None:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(GeneratorModel, "generate", generate)
    return asked


def test_stopped_answer_ends_its_line_and_an_empty_one_is_not_kept(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(monkeypatch, "One", "Two", "Three")
    asked = answer_with(monkeypatch, ["A", " b", None], [None], ["c"])
    ran = run("chat", "--base", tiny_folder)
    assert ran.out == "A b\n\nc\n"
    assert ran.err.count("Stopped the answer.") == 2
    contents = [[message.content for message in said] for said in asked]
    assert contents == [["One"], ["One", "A b", "Two"], ["One", "A b", "Three"]]


def test_terminal_gets_lines_that_end_at_words_and_a_pipe_gets_the_text(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    pieces: list[str | None] = ["A finch is a sm", "all bird that eats", " seeds."]
    shown = []
    for is_terminal in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda value=is_terminal: value, raising=False)
        answer_with(monkeypatch, pieces)
        talk(monkeypatch, "What is a finch?")
        shown.append(run("chat", "--base", tiny_folder).out)
    assert shown == ["A finch is a small\nbird that eats\nseeds.\n", "A finch is a small bird that eats seeds.\n"]
