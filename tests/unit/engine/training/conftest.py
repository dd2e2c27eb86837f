"""Data and adapters that the training tests share."""

from __future__ import annotations

import pytest
import torch
from support.training import BIRDS, adapted

from finch_hub.engine.adapter import LoRAAdapter
from finch_hub.engine.bases import Base
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all

__all__ = ["BIRDS"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small products are slower on two threads, and rounding depends on their number."""
    torch.set_num_threads(1)


@pytest.fixture
def birds(tiny_bases: Base) -> tuple[TokenizedExample, ...]:
    """Tokenised conversations of unequal lengths with one system prompt, for each architecture in turn."""
    return tokenize_all(BIRDS, tiny_bases.tokenizer, max_length=512)


@pytest.fixture
def adapter(tiny_bases: Base) -> LoRAAdapter:
    """Return an adapter with random weights on all linear modules, for each architecture in turn."""
    return adapted(tiny_bases)
