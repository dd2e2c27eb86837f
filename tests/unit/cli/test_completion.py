"""Completion of names in a shell, from the database of the home."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
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
    assert call(completion.complete_bases, "ti") == ["tiny", "ti"], "a path too"
    assert call(completion.complete_data, "qu") == ["quiz", "qu"], "a path too"
    assert call(completion.complete_datasets, "x") == []
    assert call(completion.complete_presets, "st") == ["style"]
    assert call(completion.complete_workers, "gpu") == ["gpu-1"]


def test_signs_of_patterns_stand_for_themselves(filled: str) -> None:
    assert call(completion.complete_adapters, "%") == []
    assert call(completion.complete_adapters, "medica_") == []


COMPLETERS = (
    (completion.complete_bases, "bases", "name"),
    (completion.complete_adapters, "adapters", "name"),
    (completion.complete_references, "aliases", "name"),
    (completion.complete_data, "datasets", "name"),
    (completion.complete_datasets, "datasets", "name"),
    (completion.complete_presets, "adapter_versions", "preset"),
    (completion.complete_workers, "workers", "id"),
)


@pytest.mark.parametrize(
    "name", ["$(touch${IFS}PWNED)", "`id`", "a;id", "a b", "-rf", "*", "~root", "a\nb", "né", "{a,b}"]
)
def test_name_that_a_shell_would_expand_is_not_offered(filled: str, home: Path, name: str) -> None:
    for complete_kind, table, column in COMPLETERS:
        with contextlib.closing(sqlite3.connect(home / "finch.db")) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA foreign_keys = OFF")
            rowid = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (name, rowid))
        offered = [value for value in call(complete_kind, "") if value]
        assert all(re.fullmatch(r"[\w@/][\w@/-]*", value, re.ASCII) for value in offered), (table, offered)


def test_completion_makes_no_file_beside_a_database_that_nobody_has_open(
    filled: str, home: Path, database: Database
) -> None:
    database.close()
    before = sorted(home.glob("finch.db*"))
    assert before == [home / "finch.db"]
    assert call(completion.complete_adapters, "") == ["legal", "medical"]
    assert sorted(home.glob("finch.db*")) == before


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


def ask_bash(run: Run, tmp_path: Path, line: str, words: Sequence[str], replaced: str) -> list[str]:
    """Return what bash would offer. It calls the function with the command, the word to replace and the one before."""
    command = tmp_path / "finch-hub"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m finch_hub.cli.main "$@"\n')
    command.chmod(0o755)
    code = (
        f"{run('completion', 'bash').out}\n"
        'compopt() { echo "compopt $*"; }\n'
        "COMP_LINE=$1 COMP_POINT=${#1} replaced=$2; shift 2\n"
        'COMP_WORDS=(finch-hub "$@") COMP_CWORD=$#\n'
        f'_finch_hub_completion "{command}" "$replaced" ""\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    arguments = ["bash", "-c", code, "bash", f"finch-hub {line}", replaced, *words]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "words", "replaced", "offered"),
    [
        ("adapters show medical@b", ["adapters", "show", "medical", "@", "b"], "b", ["best"]),
        ("adapters show medical@", ["adapters", "show", "medical", "@"], "", ["best"]),
        ("adapters show med", ["adapters", "show", "med"], "med", ["medical", "medical@best"]),
        ("adapters show  medical/", ["adapters", "show", "medical/"], "medical/", ["medical/2", "medical/1"]),
        ("adapters show ", ["adapters", "show", ""], "", ["legal", "medical", "medical@best"]),
        ("train x --base=ti", ["train", "x", "--base", "=", "ti"], "ti", ["compopt -o filenames", "tiny", "tip.txt"]),
        ("train x --base tip", ["train", "x", "--base", "tip"], "tip", ["compopt -o default", ""]),
        ("eval 'qu", ["eval", "'qu"], "qu", ["quiz"]),
        ("compare legal@x medical@b", ["compare", "legal", "@", "x", "medical", "@", "b"], "b", ["best"]),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_words_that_it_splits(
    filled: str, run: Run, tmp_path: Path, line: str, words: list[str], replaced: str, offered: list[str]
) -> None:
    (tmp_path / "tip.txt").touch()
    assert ask_bash(run, tmp_path, line, words, replaced) == offered


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
