"""Second moment of a module's inputs, of which only a part is stored because it is symmetric."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# Block rows of the lower triangle: 9/16 of the matrix is stored. More would store less, in more and smaller products.
_NUM_BLOCKS = 8


class SecondMoment:
    """Sum of ``x xᵀ [in, in]`` over the inputs x of a module.

    Only the lower triangle is stored, in block rows. Each ends with the last column of its square on the diagonal.
    """

    def __init__(self, size: int, device: torch.device | None = None) -> None:
        edges = [size * number // _NUM_BLOCKS for number in range(_NUM_BLOCKS + 1)]
        self._rows = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        self._blocks = [torch.zeros(rows.stop - rows.start, rows.stop, device=device) for rows in self._rows]

    def add(self, inputs: Tensor) -> None:
        """Add inputs [tokens, in], float32."""
        for rows, block in zip(self._rows, self._blocks, strict=True):
            block.addmm_(inputs[:, rows].mT, inputs[:, : rows.stop])

    def move_to_cpu(self) -> None:
        """Move the sums from their device to main memory."""
        self._blocks = [block.cpu() for block in self._blocks]

    def normalized(self) -> Tensor:
        """Return the moment with trace 1, in float64. Without inputs, it is the identity over `in`."""
        size = self._rows[-1].stop
        moment = torch.empty(size, size, dtype=torch.float64)
        for rows, block in zip(self._rows, self._blocks, strict=True):
            moment[rows, : rows.stop] = block
            moment[: rows.start, rows] = block[:, : rows.start].mT
        trace = float(moment.trace())
        return torch.eye(size, dtype=torch.float64) / size if trace == 0 else moment.div_(trace)
