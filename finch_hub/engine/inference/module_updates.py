"""Low-rank updates of one module's output, for one adapter or for several adapters in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class ModuleUpdate(Protocol):
    """Change of one module's output."""

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output [rows, length, out] of the module on x [rows, length, in] with the update."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class UniformUpdate:
    """Update of all rows by one adapter: ``output + (x Aᵀ) Bᵀ * scale``, in float32 as in PEFT's layer.

    All of the output but the bias is multiplied by DoRA's `gain` [out], ``m / ‖W + scale * B A‖``.
    """

    A: Tensor
    B: Tensor
    scale: float
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with the update."""
        update = F.linear(F.linear(x.to(self.A.dtype), self.A), self.B) * self.scale
        if self.gain is None:
            return (output + update).to(output.dtype)
        return _apply_gain(output, update, self.gain, bias)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class AdapterStack:
    """Factors of several adapters of one module, padded with zeros to one rank, with the scales in B.

    `A` is [adapters, in, rank], `B` is [adapters, rank, out], and `slots` has the index of each adapter by name.
    """

    slots: Mapping[str, int]
    A: Tensor
    B: Tensor

    @classmethod
    def of(cls, updates: Mapping[str, UniformUpdate]) -> AdapterStack:
        """Stack the updates of one module by these adapters."""
        first = next(iter(updates.values()))
        rank = max(len(update.A) for update in updates.values())
        A = first.A.new_zeros(len(updates), rank, first.A.shape[1])
        B = first.B.new_zeros(len(updates), rank, first.B.shape[0])
        for slot, update in enumerate(updates.values()):
            A[slot, : len(update.A)] = update.A
            B[slot, : len(update.A)] = update.B.T * update.scale
        return cls(slots={name: slot for slot, name in enumerate(updates)}, A=A.transpose(1, 2), B=B)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class RowGroups:
    """Rows of a batch in groups of equal size, one group for each adapter of a stack.

    `gather` [adapters * size] has the row at each index of the groups; the number of rows stands for a row of zeros.
    `indices` [rows] has the index of each row. Both are None if the rows are in this order already.
    """

    gather: Tensor | None
    indices: Tensor | None

    @classmethod
    def of(cls, slots: Sequence[int | None], count: int, device: torch.device) -> RowGroups:
        """Group rows by their adapters' slots. A row without an adapter gets an index with zeros."""
        members = [[row for row, own in enumerate(slots) if own == slot] for slot in range(count)]
        zeros, size = len(slots), max(map(len, members))
        if None in slots and all(len(rows) == size for rows in members):
            size += 1
        order = [row for rows in members for row in (*rows, *[zeros] * (size - len(rows)))]
        if order == list(range(len(slots))):
            return cls(gather=None, indices=None)
        index_of = {row: index for index, row in enumerate(order)}
        indices = [index_of[zeros if slot is None else row] for row, slot in enumerate(slots)]
        return cls(gather=torch.tensor(order, device=device), indices=torch.tensor(indices, device=device))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MixedUpdate:
    """Update of each row by its own adapter, or none.

    A prompt is computed in runs of neighboring rows that share an adapter. For a single token that would be hundreds
    of tiny matrix products. So rows are grouped by adapter, and all groups take two batched products.
    """

    runs: tuple[tuple[int, int, UniformUpdate | None], ...]
    stack: AdapterStack
    groups: RowGroups
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with each row's update."""
        if x.shape[1] == 1:
            update = self._update_one_token(x[:, 0].to(self.stack.A.dtype))[:, None]
            if self.gain is None:
                return (output + update).to(output.dtype)
            return _apply_gain(output, update, self.gain, bias)
        parts = [
            output[start:stop] if update is None else update.apply(x[start:stop], output[start:stop], bias)
            for start, stop, update in self.runs
        ]
        return torch.cat(parts)

    def _update_one_token(self, x: Tensor) -> Tensor:
        """Return the update [rows, out] of x [rows, in]."""
        stack, groups = self.stack, self.groups
        if groups.gather is not None:
            x = F.pad(x, (0, 0, 0, 1)).index_select(0, groups.gather)
        update = torch.bmm(torch.bmm(x.reshape(len(stack.A), -1, x.shape[1]), stack.A), stack.B).flatten(0, 1)
        return update if groups.indices is None else update.index_select(0, groups.indices)


def _apply_gain(output: Tensor, update: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    plain = output if bias is None else output - bias
    result = (plain + update) * gain
    return (result if bias is None else result + bias).to(output.dtype)
