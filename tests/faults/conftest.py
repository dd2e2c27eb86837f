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
    databases: services.Databases = request.getfixturevalue(f"{request.param}_databases")
    url = databases.new()
    try:
        with fleet(tmp_path, url) as made:
            yield made
    finally:
        databases.drop(url)
