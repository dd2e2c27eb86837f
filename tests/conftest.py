"""Fixtures of all tests: an environment of their own, tiny models, real services and databases on both engines."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import fuzzing, machine, services, shares
from support.isolation import Isolation
from support.models import tiny_base, tiny_bases, tiny_folder, tiny_folders

from finch_hub import progress
from finch_hub.registry.database import Database

__all__ = ["tiny_base", "tiny_bases", "tiny_folder", "tiny_folders"]

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile(
    "finch", deadline=None, max_examples=fuzzing.examples(100), suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("finch")


_ISOLATION = pytest.StashKey[Isolation]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", default="1/1", help="run one of several equal shares of the tests, such as 2/3")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the user's settings before any test module is imported; libraries read some of them at import."""
    gc.disable()  # until all modules are imported, since they stay
    isolation = Isolation()
    config.add_cleanup(isolation.leave)
    config.stash[_ISOLATION] = isolation
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        isolation.limit_threads(int(processes))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Answer `-n auto`."""
    return machine.choose_processes(machine.count_cores(), machine.free_memory())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the share of the tests that `--share` names."""
    items[:], dropped = shares.split(items, config.getoption("--share"))
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the modules and the tests: a million objects, for a second each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail if processes, temporary files or shared memory outlive the tests of this process."""
    yield
    left = request.config.stash[_ISOLATION].leftovers()
    assert not left, "left behind by the tests:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server's own database; tests make theirs with `database_url`."""
    with services.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """URL of a Valkey, shared by the session; give your keys a prefix, or flush it."""
    with services.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Databases]:
    """Maker of databases on SQLite."""
    made = services.Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgresql_databases(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[services.Databases]:
    """Maker of databases on PostgreSQL."""
    made = services.Databases(tmp_path_factory.mktemp("databases"), postgres_url)
    yield made
    made.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> services.Databases:
    """Maker of databases on one engine; whatever uses it runs on both."""
    made: services.Databases = request.getfixturevalue(f"{request.param}_databases")
    return made


@pytest.fixture(scope="session")
def make_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Return the function that makes a home with a new database, by a copy, since the migrations take longer."""
    template = tmp_path_factory.mktemp("template") / "finch.db"
    database = Database(f"sqlite:///{template}")
    database.upgrade(is_private=True)
    database.close()

    def call(home: Path) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy(template, home)
        with contextlib.closing(sqlite3.connect(home / template.name)) as connection, connection:
            connection.execute("UPDATE deployment SET id = ?", (secrets.token_hex(16),))

    return call


@pytest.fixture
def database_url(databases: services.Databases) -> Iterator[str]:
    """URL of a new database with the schema, on both engines in turn."""
    url = databases.new()
    yield url
    databases.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new database with the schema, on both engines in turn."""
    database = Database(database_url, allow_insecure=True)
    yield database
    database.close()


@pytest.fixture(params=["local", "s3"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """URL of an empty bucket, or None for the artifact store of the home."""
    if request.param == "local":
        yield None
        return
    from support.buckets import make_bucket  # it takes long to import

    with make_bucket() as url:
        yield url


@pytest.fixture(scope="session")
def layout_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the layouts of bases, since a process of transformers takes seconds for each."""
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture
def parsing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process read GGUF files and build layouts. A child imports transformers for seconds, each time."""

    def parse(function: Callable[..., Iterator[str]], *arguments: Any, **_: Any) -> Iterator[str]:
        yield from function(*arguments)

    for module in ("gguf", "module_layout"):
        monkeypatch.setattr(f"finch_hub.engine.bases.{module}.parse", parse)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[progress.Advance]]:
    """Every advance of the work in the test, however fast it is."""
    monkeypatch.setattr(progress, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_SHARE", 0.0)
    advances: list[progress.Advance] = []
    with progress.listen(advances.append):
        yield advances
