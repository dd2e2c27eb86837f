"""Shapes from the headers of weight files."""

from __future__ import annotations

from finch_hub.engine.adapters.attachable_adapter import linear_modules
from finch_hub.engine.bases import weight_shapes
from finch_hub.engine.bases.base import Base


def test_headers_and_model_name_the_same_modules(tiny_bases: Base) -> None:
    assert weight_shapes.read_linear_modules(tiny_bases.folder) == linear_modules(tiny_bases.model)
