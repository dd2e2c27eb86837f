"""Fixtures of the tests of data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from finch_hub.specs.options import in_command


@pytest.fixture
def words_of_a_command() -> Iterator[None]:
    """Name options as a command does."""
    with in_command():
        yield
