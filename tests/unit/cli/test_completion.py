"""Completion of names in a shell, from the database of the home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem
from support import registry

from finch_hub.cli import completion, main
from finch_hub.plugins import builtin
from finch_hub.registry.database import Database

from .conftest import Run, enter_worker

HEAVY = ("torch", "transformers", "peft", "celery", "sqlalchemy", "pydantic", "pluggy", "rich", "numpy")


@pytest.fixture
def filled(database: Database, run: Run, data: Path) -> str:
    """Adapters, an alias, a data set and a job, whose id is returned."""
    registry.add_version(database, "medical")
    registry.add_version(database, "medical")
    registry.add_version(database, "legal")
    registry.set_alias(database, "medical", "best", 1)
    run("datasets", "add", data, "--name", "quiz")
    enter_worker(database)
    return registry.submit(database, spec=registry.merge_spec("medical/1")).id


def complete(*words: str, shell: str = "bash") -> list[str]:
    """Return what a shell would offer for the last word."""
    environment = {
        "COMP_WORDS": " ".join(("finch-hub", *words)),
        "COMP_CWORD": str(len(words)),
        "_FINCH_HUB_COMPLETE": f"{shell}_complete",
    }
    command = [sys.executable, "-m", "finch_hub.cli.main"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def values(items: list[CompletionItem]) -> list[str]:
    return [item.value for item in items]


def call(function: completion.Complete, begun: str) -> list[str]:

    context = click.Context(main.cli)
    return values(function(context, click.Option(["--x"]), begun))


def test_shell_completes_commands_options_and_names(filled: str) -> None:
    assert complete("adapt") == ["adapters"]
    assert complete("adapters", "show", "medical@") == ["medical@best"]
    assert "--idempotency-key" in complete("train", "x", "--idem")
    assert complete("jobs", "show", filled[:4]) == [filled]


def test_names_are_completed(filled: str) -> None:
    assert call(completion.complete_adapters, "") == ["legal", "medical"]
    assert call(completion.complete_references, "med") == ["medical", "medical@best"]
    assert call(completion.complete_references, "medical/") == ["medical/2", "medical/1"]
    assert call(completion.complete_jobs, "") == ["last", filled]
    assert call(completion.complete_bases, "ti") == ["tiny"]
    assert call(completion.complete_data, "qu") == ["quiz"]
    assert call(completion.complete_datasets, "x") == []
    assert call(completion.complete_presets, "st") == ["style"]
    assert call(completion.complete_workers, "gpu") == ["gpu-1"]


def test_signs_of_patterns_stand_for_themselves(filled: str) -> None:
    assert call(completion.complete_adapters, "%") == []
    assert call(completion.complete_adapters, "medica_") == []


def test_home_without_a_database_offers_nothing(home: Path) -> None:
    assert call(completion.complete_adapters, "") == []
    assert not home.exists()


def test_database_on_a_server_is_not_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_DATABASE_URL", "postgresql://nobody@nowhere.invalid/finch")
    assert call(completion.complete_adapters, "") == []


def test_database_is_found_in_the_settings_file(
    filled: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other home"
    other.mkdir()
    monkeypatch.setenv("FINCH_HOME", str(other))
    assert call(completion.complete_adapters, "") == []
    (other / "finch.toml").write_text(f'database_url = "sqlite:///{home / "finch.db"}"\n')
    assert call(completion.complete_adapters, "") == ["legal", "medical"]


def test_built_in_presets_are_those_of_the_plugin() -> None:
    assert sorted(preset.name for preset in builtin.finch_presets()) == list(completion.BUILTIN_PRESETS)


def test_completion_imports_nothing_heavy(filled: str) -> None:
    code = (
        "import sys\n"
        "from finch_hub.cli.main import cli\n"
        "from click.shell_completion import BashComplete\n"
        "found = BashComplete(cli, {}, 'finch-hub', 'X')\n"
        "for words, begun in ((['jobs', 'show'], ''), (['adapters', 'show'], 'm'), (['train', 'x', '--preset'], '')):\n"
        "    assert found.get_completions(words, begun), words\n"
        "print(sorted(set(sys.argv[1:]) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell_asks_the_command(run: Run, shell: str) -> None:
    script = run("completion", shell).out
    assert f"_FINCH_HUB_COMPLETE={shell}_complete" in script
    checker = shutil.which(shell)
    if checker is not None:
        assert subprocess.run([checker, "-n"], input=script, text=True, check=False).returncode == 0
