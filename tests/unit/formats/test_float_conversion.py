from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.formats.float_conversion import round_into, to_float32


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_equals_that_of_torch(values: list[float]) -> None:
    for dtype, storage, torch_dtype in (
        ("BF16", np.uint16, torch.bfloat16),
        ("F16", np.float16, torch.float16),
        ("F32", np.float32, torch.float32),
    ):
        numbers = np.array(values, np.float32)
        stored = np.empty(len(values), storage)
        finite = round_into(stored, numbers.copy(), np.empty_like(numbers), dtype)
        theirs = torch.from_numpy(numbers).to(torch_dtype).float().numpy()
        np.testing.assert_array_equal(to_float32(stored, dtype), theirs)
        assert finite == bool(np.isfinite(theirs).all())
