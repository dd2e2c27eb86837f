"""One thread for every test, since some of the trainings here change it."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small products are slower on two threads, and rounding depends on their number."""
    torch.set_num_threads(1)
