"""README and guides: their commands and snippets are run, in order, in an embedded home with a tiny base."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from finch_hub.cli import main
from finch_hub.display import tables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```$", text_of(ROOT / page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {kind} blocks"
    return found


def commands(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "console")).splitlines()
    assert lines, f"{page} has no commands"
    assert all(line.startswith("$ finch-hub ") for line in lines)
    return [shlex.split(line, comments=True)[2:] for line in lines]


def run(words: list[str]) -> None:
    tables.console.cache_clear()
    assert main.main(words) == 0, words


def run_commands(page: str) -> None:
    for words in commands(page):
        run(words)


def run_snippets(page: str) -> None:
    names: dict[str, Any] = {}
    for snippet in blocks(page, "python"):
        exec(compile(snippet, page, "exec"), names)
    if "hub" in names:
        names["hub"].close()


@pytest.mark.usefixtures("newcomer")
def test_pages_run_in_the_order_in_which_a_newcomer_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    """One test, because each page goes on in the home that the one before has left."""
    run_commands("README.md")
    assert (Path.cwd() / "meadow-model" / "model.safetensors").is_file()
    capsys.readouterr()
    run_snippets("README.md")
    assert re.search(r"birds/2 \d+\.\d+ -> \d+\.\d+", capsys.readouterr().out)
    run_commands("docs/concepts.md")
    capsys.readouterr()
    run_snippets("docs/python.md")
    shown = capsys.readouterr().out
    assert "did you mean" in shown
    kept = re.findall(r"^(\w+)/\d+ (measured|undefined) (None|-?[\d.e-]+)$", shown, re.MULTILINE)
    assert {name for name, *_ in kept} == {"birds", "bees"}
    assert all((status == "undefined") == (value == "None") for _, status, value in kept)
    lines = "".join(blocks("docs/export.md", "sh")).splitlines()
    assert [line.split()[:2] for line in lines] == [["finch-hub", kind] for kind in ("merge", "quantize", "export")]
    assert main.main(["adapters", "show", "birds/3"]) == 0, "the pages before made it"
    for line in lines:
        run(shlex.split(line)[1:])
    assert (Path.cwd() / "merged" / "model.safetensors").is_file()
    assert (Path.cwd() / "birds-gguf" / "adapter.gguf").is_file()


def test_every_block_of_a_page_is_of_a_kind_that_a_test_runs() -> None:
    """A block of another kind, or one that the patterns of these tests do not find, would never be run."""
    run_by = {
        "console": {"README.md", "concepts.md", "data.md"},
        "python": {"README.md", "data.md", "python.md"},
        "python run": {"export.md", "plugins.md", "training.md"},
        "sh": {"README.md", "CONTRIBUTING.md", "export.md", "importing.md", "models.md", "operations.md"},
    }
    for page in PAGES:
        if page.parent.name == "decisions":
            continue  # records show what was rejected, too
        fences = re.findall(r"^[ \t]*```(.*)$", text_of(page), re.MULTILINE)
        opened, closed = fences[::2], fences[1::2]
        assert len(opened) == len(closed), page.name
        assert set(closed) <= {""}, page.name
        for kind in opened:
            if kind in run_by:
                assert page.name in run_by[kind], f"{page.name}: no test runs its {kind} blocks"
            else:
                assert kind in ("", "text", "toml") or kind.startswith("python file="), f"{page.name}: {kind}"


def test_the_client_and_the_engine_alone_take_ten_lines() -> None:
    (client,) = blocks("README.md", "python")
    (engine,) = (block for block in blocks("docs/python.md", "python") if "with GeneratorModel(" in block)
    for snippet in (client, engine):
        assert len([line for line in snippet.splitlines() if line]) <= 10


def test_commands_that_only_stand_in_a_text_exist() -> None:
    mentions = [(page, words) for page in PAGES for words in re.findall(r"`finch-hub ([a-z][a-z -]*)", text_of(page))]
    assert len(mentions) > 10
    for page, mention in mentions:
        command: click.Command = main.cli
        for word in mention.split():
            if not isinstance(command, click.Group):
                break
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{page.name}: finch-hub {mention}"
            command = found


def test_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {page.name: set(re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE)) for page in PAGES}
    assert {"check", "test"} <= named["CONTRIBUTING.md"]
    for page, names in named.items():
        assert names <= targets, page


def test_links_between_pages_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page))]
    assert len(links) > 20
    for page, target in links:
        assert (page.parent / target).exists(), f"{page.name}: {target}"
