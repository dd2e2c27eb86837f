"""docs/data.md: its commands run with a table such as the page describes, and its tables are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.engine.data import row_formats

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.filterwarnings("default::finch_hub.specs.reading.DataWarning")


def run(*words: str) -> int:
    tables.console.cache_clear()
    return main.main(list(words))


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    return [shlex.split(line)[2:] for line in "".join(blocks("console")).splitlines()]


@pytest.fixture
def tickets(newcomer: Path) -> Path:
    rows = "".join(f"{n};Wo ist mein Päckchen {n}?;Es kommt am {n}. März.;Post\n" for n in range(300))
    file = newcomer / "tickets.csv"
    file.write_bytes(f"id;customer_message;agent_reply;topic\n{rows}".encode("cp1252"))
    return file


@pytest.mark.usefixtures("tickets", "parsing_here")
def test_commands_print_what_the_page_shows(newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bases", "add", str(next((newcomer / ".demo" / "demo").iterdir())), "--name", "smollm2-135m") == 0
    add, train, _ = commands()
    capsys.readouterr()
    assert run(*add) == 0
    shown = capsys.readouterr()
    printed, refusal, _ = blocks("text")
    assert shown.err.splitlines()[:3] + shown.out.splitlines() == printed.splitlines()
    assert run("datasets", "add", "tickets.csv") == 2
    assert capsys.readouterr().err.split() == refusal.split()
    assert run(*train, "--max-steps", "1") == 0


def test_command_that_settles_the_file_reads_conversations(newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = '[{""role"": ""user"", ""content"": ""Wo?""}, {""role"": ""assistant"", ""content"": ""Köln.""}]'
    (newcomer / "tickets.csv").write_bytes(f'conversation;topic\n"{turns}";\n'.encode("cp1252"))
    assert run(*commands()[2]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("1 example\n")
    assert "warning" not in shown.err


def test_both_splits_of_a_folder_are_added_as_the_page_shows(
    newcomer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(newcomer)
    (newcomer / "data").mkdir()
    for split, count in (("train", 900), ("validation", 100)):
        rows = "".join(f'{{"prompt": "{split} {n}?", "completion": "Yes."}}\n' for n in range(count))
        (newcomer / "data" / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    assert run("datasets", "add", "data", "--name", "birds") == 0
    shown = capsys.readouterr()
    assert shown.out + shown.err == blocks("text")[2]


@pytest.mark.usefixtures("newcomer")
def test_snippet_stores_rows(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks("python")
    exec(compile(snippet, "docs/data.md", "exec"), {})
    assert re.fullmatch(r"[0-9a-f]{12} 20 \{\}\n", capsys.readouterr().out)


def test_page_names_every_format_and_its_columns() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    for row_format in row_formats.BUILTIN:
        assert row_format.fields <= set(re.findall(r"`(\w+)`", rows[row_format.name]))
