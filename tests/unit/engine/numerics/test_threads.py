from __future__ import annotations

import pytest
import torch

from finch_hub.engine.machine import container
from finch_hub.engine.numerics import threads
from finch_hub.engine.numerics.threads import use_threads


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_random_state_are_restored(fails: bool) -> None:
    torch.set_num_threads(3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    try:
        with use_threads(2):
            assert torch.get_num_threads() == 2
            torch.manual_seed(0)
            torch.rand(9)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.rand(1), expected)


def test_threads_are_one_for_each_core_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_physical_cores", lambda: 5)
    with use_threads(None):
        assert torch.get_num_threads() == 5
    assert container.count_physical_cores() >= 1
