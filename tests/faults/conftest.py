"""A fleet for every fault test: on SQLite always, on PostgreSQL in slow runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import services
from support.fleet import Fleet, fleet


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet without workers. Tests start the workers that they need."""
    server = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    databases = services.Databases(tmp_path, server)
    try:
        with fleet(tmp_path, databases.new()) as made:
            yield made
    finally:
        databases.close()
