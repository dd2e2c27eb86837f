"""Fixtures of all tests: own settings, tiny models, real services and databases on both engines."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
from support import services
from support.models import tiny_base, tiny_bases, tiny_folder, tiny_folders

from finch_hub.registry.database import Database

__all__ = ["tiny_base", "tiny_bases", "tiny_folder", "tiny_folders"]

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("finch", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("finch")


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the user's settings from all tests and their child processes; only `FINCH_TEST_*` stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("FINCH_") and not name.startswith("FINCH_TEST_"):
                patch.delenv(name)
        patch.setenv("FINCH_HOME", str(tmp_path_factory.getbasetemp() / "home"))  # `~/.finch` may hold a finch.toml
        yield


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


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Databases]:
    """Maker of databases on one engine; whatever uses it runs on both."""
    server = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    made = services.Databases(tmp_path_factory.mktemp("databases"), server)
    yield made
    made.close()


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
