"""Arithmetic of a merge: the change of one tensor, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finch_hub.engine.export.merge_plan import Contribution, is_transposed
from finch_hub.engine.export.shard_writer import BlockChange
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.lora_modules import LoRAModule


def load_change(contributions: Sequence[Contribution], shape: tuple[int, ...]) -> BlockChange:
    """Load the contributions to a tensor and return the function that changes its blocks.

    All plain low-rank updates are one product of their stacked factors.
    """
    lefts: list[Float32] = []
    rights: list[Float32] = []
    redefine: BlockChange | None = None
    for contribution in contributions:
        adapter, module = contribution.adapter, contribution.module
        if module is None:
            redefine = _replacing(contribution, shape[0])
            continue
        left, right = _scaled_factors(adapter, module)
        magnitude = adapter.magnitude(module.path)
        if magnitude is not None:
            redefine = _decomposing(left, right, magnitude)
        else:
            with np.errstate(over="ignore"):  # the writer reports results that are not finite
                lefts.append(left * np.float32(contribution.weight))
            rights.append(right)
    if not lefts and redefine is not None:
        return redefine
    left, right = np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)

    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        if redefine is not None:
            redefine(values, scratch, rows)
        np.matmul(left[rows], right, out=scratch)
        np.add(values, scratch, out=values)

    return change


def _scaled_factors(adapter: StoredAdapter, module: LoRAModule) -> tuple[Float32, Float32]:
    """Return left ``[rows, r]`` with the scale and right ``[r, columns]``, oriented as the weight."""
    a, b = adapter.factors(module.path)
    left, right = (a.T, b.T) if is_transposed(adapter, module) else (b, a)
    return np.ascontiguousarray(left) * np.float32(module.scale), np.ascontiguousarray(right)


def _decomposing(left: Float32, right: Float32, magnitude: Float32) -> BlockChange:
    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        np.matmul(left[rows], right, out=scratch)
        np.add(values, scratch, out=values)
        norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        values *= (magnitude[rows] / norms).astype(np.float32)[:, None]  # the writer reports a row of zeros

    return change


def _replacing(contribution: Contribution, num_rows: int) -> BlockChange:
    name = contribution.adapter.replaced[contribution.replacement]
    replacement = contribution.adapter.tensor(name).reshape(num_rows, -1)

    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        values[...] = replacement[rows]

    return change
