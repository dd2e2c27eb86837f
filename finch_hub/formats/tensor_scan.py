"""Reading through the numbers of an untrusted file: are they finite, and how large are they."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finch_hub.formats.safetensors_header import TensorInfo

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BLOCK = 2**20  # a multiple of every item's size


class Scan(NamedTuple):
    """What one tensor's numbers are like: entries that are NaN or infinite, and the Frobenius norm of the others."""

    nonfinite: int
    norm: float


def scan(path: Path, info: TensorInfo) -> Scan:
    """Read one floating-point tensor, a megabyte at a time."""
    nonfinite, squares = 0, 0.0
    for values in _blocks(path, info):
        finite = np.isfinite(values)
        nonfinite += values.size - int(np.count_nonzero(finite))
        # An overflowing norm is infinite, and as such beyond any policy; signalling NaNs complain when converted.
        with np.errstate(over="ignore", invalid="ignore"):
            squares += float(np.sum(np.square(values.astype(np.float64)), where=finite))
    return Scan(nonfinite, math.sqrt(squares))


def _blocks(path: Path, info: TensorInfo) -> Iterator[NDArray[Any]]:
    with path.open("rb") as stream:
        stream.seek(info.start)
        left = info.end - info.start
        while left:
            chunk = stream.read(min(_BLOCK, left))
            if not chunk:
                return
            left -= len(chunk)
            yield _values(chunk, info.dtype)


def _values(chunk: bytes, dtype: str) -> NDArray[Any]:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(chunk, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(chunk, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
