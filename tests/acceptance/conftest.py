"""The tiny model, as a fixture."""

from __future__ import annotations

from support.models import tiny_folder

__all__ = ["tiny_folder"]
