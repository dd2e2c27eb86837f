"""Fixtures of the engine's tests: one thread, data and adapters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.training import BIRDS, adapted

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize_all


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: small products are slower on two, and rounding depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def birds(tiny_bases: Base) -> tuple[TokenizedExample, ...]:
    """Tokenized conversations of unequal lengths with one system prompt, for each architecture in turn."""
    return tokenize_all(BIRDS, tiny_bases.tokenizer, max_length=512)


@pytest.fixture
def adapter(tiny_bases: Base) -> AttachableAdapter:
    """Return an adapter with random weights on all linear modules, for each architecture in turn."""
    return adapted(tiny_bases)
