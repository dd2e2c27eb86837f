"""Statistics of a tensor in an untrusted file, read in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finch_hub.formats.float_conversion import to_float32
from finch_hub.formats.safetensors_header import NUMPY_CODES, TensorInfo

_BLOCK_BYTES = 2**20  # a multiple of every item's size


class TensorStatistics(NamedTuple):
    """Number of NaN and infinite entries, and the Frobenius norm of the others."""

    nonfinite: int
    norm: float


def scan_tensor(path: Path, info: TensorInfo) -> TensorStatistics:
    """Read a floating-point tensor in blocks of a megabyte and return its statistics."""
    nonfinite, squares = 0, 0.0
    for values in _read_blocks(path, info):
        finite = np.isfinite(values)
        nonfinite += values.size - int(np.count_nonzero(finite))
        # A norm that overflows is infinite, which exceeds every policy. NumPy warns when it converts signaling NaNs.
        with np.errstate(over="ignore", invalid="ignore"):
            squares += float(np.sum(np.square(values.astype(np.float64)), where=finite))
    return TensorStatistics(nonfinite, math.sqrt(squares))


def _read_blocks(path: Path, info: TensorInfo) -> Iterator[NDArray[Any]]:
    with path.open("rb") as stream:
        stream.seek(info.start)
        left = info.end - info.start
        while left and (block := stream.read(min(_BLOCK_BYTES, left))):
            left -= len(block)
            stored = np.frombuffer(block, NUMPY_CODES[info.dtype])
            yield to_float32(stored, "BF16") if info.dtype == "BF16" else stored
