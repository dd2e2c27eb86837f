"""Updates that LoRA adapters add to linear modules, alone or stacked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Every row is multiplied by all ranks of a stack: 64 add about a seventh to a product of SmolLM2's shapes.
_MAX_STACKED_RANKS = 64


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LowRankUpdate:
    """Term that adapters add to one linear module on some rows: ``scale * dropout(x) Aᵀ Bᵀ``.

    Attributes:
        rows: packed tokens that are updated.
        columns: outputs of the module among those of the frozen product.
        A: float32 [r, in].
        B: float32 [out, r].
        scale: alpha / r, or alpha / sqrt(r) for rsLoRA.
        dropout: probability of dropping an input, 0 in evaluation.
        seed: seed of the dropout mask, which is drawn again in the backward pass instead of kept.
        masked_ranks: bool [rows, r], for a stack: factors that belong to another row's adapter.
    """

    rows: slice
    columns: slice
    A: Tensor
    B: Tensor
    scale: float
    dropout: float = 0.0
    seed: int = 0
    masked_ranks: Tensor | None = None


def stack_updates(updates: list[LowRankUpdate], num_rows: int, *, dtype: torch.dtype) -> list[LowRankUpdate]:
    """Join updates of one module: a few larger products are faster than many small ones.

    Every row goes through all factors of a stack, so the ranks of a stack are limited. Updates with dropout stay
    apart, because each drops other inputs. In float16 all stay apart, because one that overflows would spoil the rest.
    """
    if dtype == torch.float16:
        return updates
    with_dropout = [update for update in updates if update.dropout]
    stacks: list[list[LowRankUpdate]] = []
    for update in sorted((update for update in updates if not update.dropout), key=lambda update: update.scale):
        stack = stacks[-1] if stacks else []
        num_ranks = sum(len(member.A) for member in [*stack, update])
        if stack and stack[0].scale == update.scale and num_ranks <= _MAX_STACKED_RANKS:
            stack.append(update)
        else:
            stacks.append([update])
    return [stack[0] if len(stack) == 1 else _stack(stack, num_rows) for stack in stacks] + with_dropout


def _stack(updates: Sequence[LowRankUpdate], num_rows: int) -> LowRankUpdate:
    first = updates[0]
    A, B = torch.cat([update.A for update in updates]), torch.cat([update.B for update in updates], dim=1)
    shares = tuple((update.rows.start, update.rows.stop, len(update.A)) for update in updates)
    masked_ranks = _mask_ranks(shares, num_rows, A.device)
    return LowRankUpdate(
        rows=slice(0, num_rows), columns=first.columns, A=A, B=B, scale=first.scale, masked_ranks=masked_ranks
    )


@functools.lru_cache(maxsize=32)
def _mask_ranks(shares: tuple[tuple[int, int, int], ...], num_rows: int, device: torch.device) -> Tensor:
    """Return bool [num_rows, sum of ranks]: False where a row lies in the share (begin, end, rank) of the factors."""
    mask = torch.ones(num_rows, sum(rank for _, _, rank in shares), dtype=torch.bool, device=device)
    column = 0
    for begin, end, rank in shares:
        mask[begin:end, column : column + rank] = False
        column += rank
    return mask
