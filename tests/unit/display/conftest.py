"""Drawings as text."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

Drawn = Callable[[RenderableType], str]


@pytest.fixture
def drawn() -> Drawn:
    """Return the function that turns a drawing into text."""

    def print_to_text(drawing: RenderableType) -> str:
        stream = io.StringIO()
        Console(file=stream, width=200).print(drawing)
        return stream.getvalue()

    return print_to_text
