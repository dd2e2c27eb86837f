"""Stacks of low-rank updates."""

from __future__ import annotations

import torch

from finch_hub.engine.decoder.low_rank_updates import LowRankUpdate, stack_updates


def test_updates_are_stacked_by_scale_up_to_a_rank_limit_and_never_with_dropout() -> None:
    def update(rank: int, scale: float = 1.0, dropout: float = 0.0) -> LowRankUpdate:
        A, B = torch.zeros(rank, 4), torch.zeros(4, rank)
        return LowRankUpdate(rows=slice(0, 1), columns=slice(0, 4), A=A, B=B, scale=scale, dropout=dropout)

    updates = [update(16), update(48), update(16), update(8, 2.0), update(8, 2.0), update(4, dropout=0.1)]
    assert [len(stack.A) for stack in stack_updates(updates, 1, dtype=torch.bfloat16)] == [64, 16, 16, 4]
    assert stack_updates(updates, 1, dtype=torch.float16) == updates
