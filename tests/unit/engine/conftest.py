"""The tiny models, as fixtures, for every test of the engine."""

from __future__ import annotations

import pytest
from support.models import tiny_base, tiny_bases, tiny_folder, tiny_folders

__all__ = ["one_thread", "tiny_base", "tiny_bases", "tiny_folder", "tiny_folders"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread: for models this small a second one only waits, and on a busy machine for long."""
    import torch

    torch.set_num_threads(1)
