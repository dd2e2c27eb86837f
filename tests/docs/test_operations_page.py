"""docs/operations.md: the commands for several machines run as they stand there, with addresses of real services."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import services
from support.fleet import wait_until

from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.settings import Settings
from finch_hub.workers.messaging.broker import refuse_open_broker

ROOT = Path(__file__).parents[2]
PAGES = ["docs/operations.md", "README.md"]


def block(page: str) -> list[list[str]]:
    """Return the words of each line of the page's only block that sets all addresses."""
    (words,) = (words for words in blocks(page) if any("FINCH_BROKER_URL" in word for line in words for word in line))
    return words


def blocks(page: str) -> list[list[list[str]]]:
    """Return the words of each line of each block of commands."""
    found = re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [[shlex.split(line, comments=True) for line in text.splitlines()] for text in found]


@pytest.mark.parametrize("page", PAGES)
def test_the_exported_variables_are_settings_and_their_values_are_accepted(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = [words[1].partition("=") for words in block(page) if words[0] == "export"]
    assert len(exports) == 3
    assert {name for name, *_ in exports} <= {f"FINCH_{field.upper()}" for field in Settings.model_fields}
    for name, _, value in exports:
        monkeypatch.setenv(name, value)
    given = Settings()
    assert given.broker_url is not None
    used = {given.database, given.broker_url.get_secret_value(), given.artifacts}
    assert used == {value for *_, value in exports}
    refuse_open_broker(given.broker_url.get_secret_value(), allow_insecure=False)


def test_the_readme_gives_the_commands_of_the_page() -> None:
    page, readme = ([words[:3] for words in block(page) if words[0] != "export"] for page in PAGES)
    assert page == readme


def test_the_commands_set_up_a_database_and_a_worker(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    upgrade, start = (words for words in block(PAGES[0]) if words[0] != "export")
    assert (upgrade[0], start[0]) == ("finch-hub", "finch-hub")
    databases = services.Databases(tmp_path, postgres_url)
    url, log = databases.empty(), tmp_path / "log"
    addresses = {"FINCH_DATABASE_URL": url, "FINCH_BROKER_URL": valkey_url, "FINCH_ARTIFACTS_URL": str(tmp_path / "a")}
    addresses["FINCH_HEALTH_FOLDER"] = str(tmp_path / "health")
    environment = {**os.environ, **addresses, "FINCH_HOME": str(tmp_path / "home"), "FINCH_ALLOW_INSECURE": "1"}
    command = [sys.executable, "-m", "finch_hub"]
    try:
        subprocess.run([*command, *upgrade[1:]], env=environment, check=True, capture_output=True)
        with log.open("wb") as output:
            worker = subprocess.Popen([*command, *start[1:]], env=environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: b" ready." in log.read_bytes(), "the worker to be ready", report=log.read_text)
            listing = [*command, "worker", "list", "--json"]
            listed = subprocess.run(listing, env=environment, check=True, capture_output=True)
            assert b'"gpu-1"' in listed.stdout
            wait_until(lambda: (tmp_path / "health" / "ready").exists(), "the probe to find the worker ready")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        finally:
            worker.kill()
            worker.wait()
    finally:
        databases.close()


def test_the_commands_back_up_restore_and_move_a_hub(
    postgres_url: str, valkey_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All other blocks of the page, one after another, in a home on SQLite that has a data set."""
    databases = services.Databases(tmp_path, postgres_url)
    url, broker = databases.empty(), {"FINCH_BROKER_URL": valkey_url, "FINCH_ALLOW_INSECURE": "1"}
    environment = {"FINCH_HOME": str(tmp_path / "home"), **broker}
    changed = {
        "FINCH_HOME": str(tmp_path / "srv"),
        "FINCH_DATABASE_URL": url,
        "FINCH_ARTIFACTS_URL": str(tmp_path / "a"),
    }
    (tmp_path / "data.jsonl").write_text('{"prompt": "Who?", "completion": "A finch."}\n')

    def run(*words: str, **variables: str) -> str:
        tables.console.cache_clear()  # it keeps the stream of the previous command
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**environment, **variables}.items():
                patch.setenv(name, value)
            status = main.main([word.replace("/backups", str(tmp_path)) for word in words])
        out, err = capsys.readouterr()
        statuses = (0, 3) if words[0] in ("worker", "audit") else (0,)  # there may be no worker, and no adapter birds
        assert status in statuses, err
        return out

    def list_names(**variables: str) -> list[str]:
        return [row["name"] for row in json.loads(run("datasets", "list", "--json", **variables))]

    try:
        run("datasets", "add", str(tmp_path / "data.jsonl"), "--name", "facts")
        lines = [words for lines in blocks(PAGES[0]) if lines != block(PAGES[0]) for words in lines]
        lines = [words for words in lines if words[0] not in ("kubectl", "find")]  # there is no cluster
        assert sum("restore" in words for words in lines) == 2
        for words in lines:
            names = [word.partition("=")[0] for word in words if word.startswith("FINCH_")]
            variables = {name: changed[name] for name in names}
            if words[0] == "export":
                environment |= variables
            else:
                run(*words[words.index("finch-hub") + 1 :], **variables)
        assert list_names() == ["facts"]
        assert list_names(FINCH_HOME=changed["FINCH_HOME"], FINCH_DATABASE_URL="", FINCH_ARTIFACTS_URL="") == ["facts"]
    finally:
        databases.close()
