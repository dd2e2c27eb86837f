"""Conversion between float32 and the floating-point types of safetensors.

NumPy does not know bfloat16, which is the upper half of a float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def to_float32(stored: NDArray[Any], dtype: str, out: Float32 | None = None) -> Float32:
    """Return stored values (bfloat16 as uint16) as float32, in `out` if it is given."""
    if out is None:
        out = np.empty(stored.shape, np.float32)
    if dtype == "BF16":
        bits = out.view(np.uint32)
        bits[...] = stored
        np.left_shift(bits, 16, out=bits)
    else:
        out[...] = stored
    return out


def round_into(stored: NDArray[Any], values: Float32, scratch: Float32, dtype: str) -> bool:
    """Round finite values to `dtype`, ties to even, into `stored`; overwrite `values` and `scratch`.

    Returns:
        Whether all results are finite.
    """
    if dtype == "BF16":
        bits, carry = values.view(np.uint32), scratch.view(np.uint32)
        np.right_shift(bits, 16, out=carry)
        np.bitwise_and(carry, 1, out=carry)
        np.add(carry, 0x7FFF, out=carry)
        np.add(bits, carry, out=bits)
        stored[...] = bits.view(np.uint16)[1::2]  # the upper halves, as the format is little-endian
        return bool((np.bitwise_and(stored, 0x7F80) != 0x7F80).all())
    with np.errstate(over="ignore"):
        stored[...] = values
    return dtype == "F32" or bool(np.isfinite(stored).all())
