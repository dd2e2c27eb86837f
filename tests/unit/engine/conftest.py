"""The tiny models, data and adapters, as fixtures, for every test of the engine."""

from __future__ import annotations

import pytest
import torch
from support.models import tiny_base, tiny_bases, tiny_folder, tiny_folders
from support.training import BIRDS, adapted

from finch_hub.engine.adapters.adapter import LoRAAdapter
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all

__all__ = ["one_thread", "tiny_base", "tiny_bases", "tiny_folder", "tiny_folders"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread: for models this small a second one only waits, and on a busy machine for long."""
    torch.set_num_threads(1)


@pytest.fixture
def birds(tiny_bases: Base) -> tuple[TokenizedExample, ...]:
    """Tokenized conversations of unequal lengths with one system prompt, for each architecture in turn."""
    return tokenize_all(BIRDS, tiny_bases.tokenizer, max_length=512)


@pytest.fixture
def adapter(tiny_bases: Base) -> LoRAAdapter:
    """Return an adapter with random weights on all linear modules, for each architecture in turn."""
    return adapted(tiny_bases)
