"""The tiny models, as fixtures, for every test of the engine."""

from __future__ import annotations

from support.models import tiny_base, tiny_bases, tiny_folder, tiny_folders

__all__ = ["tiny_base", "tiny_bases", "tiny_folder", "tiny_folders"]
