from __future__ import annotations

import numpy as np
import pytest

from finch_hub import errors
from finch_hub.formats.quantized import Scheme
from finch_hub.formats.safetensors_header import TensorInfo

SCHEMES = [Scheme(bits=bits, group=group) for bits in ("int8", "int4") for group in (None, 7, 16)]
A, B = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("length", [1, 33, 64])
@pytest.mark.parametrize("name", [A, B])
def test_every_value_is_restored_within_a_step(scheme: Scheme, length: int, name: str) -> None:
    values = random(0, 5, length) if name == A else random(0, length, 5)
    packed = scheme.pack(name, values)
    restored = scheme.restore(name, packed)
    assert restored.shape == values.shape
    assert packed[name].dtype == (np.uint8 if scheme.bits == "int4" and length % 2 == 0 else np.int8)
    steps = 127 if packed[name].dtype == np.int8 else 7
    # A clipped value can differ by more than half a step, but at most by the clipped share of the largest value.
    limit = 0.51 / 127 if steps == 127 else 0.3
    assert np.abs(restored - values).max() <= limit * np.abs(values).max()


def test_4_bit_numbers_are_packed_as_the_format_says() -> None:
    values = np.array([[-8, 7, 0, 1], [3, -5, 6, -8]], np.float32)
    packed = Scheme(bits="int4", group=None).pack(A, values)
    assert packed[A].tolist() == [[0 | 15 << 4, 8 | 9 << 4], [11 | 3 << 4, 14 | 0 << 4]]
    assert packed[A + ".scale"].tolist() == [[1.0], [1.0]]
    turned = Scheme(bits="int4", group=None).pack(B, values.T)
    assert turned[B].tolist() == packed[A].T.tolist()


def test_group_beyond_the_length_takes_no_memory() -> None:
    for name in (A, B):
        values = random(0, 4, 4)
        huge, whole = Scheme(bits="int8", group=2**62), Scheme(bits="int8", group=None)
        for key, stored in huge.pack(name, values).items():
            assert stored.tolist() == whole.pack(name, values)[key].tolist()
        assert (huge.restore(name, huge.pack(name, values)) == whole.restore(name, whole.pack(name, values))).all()


def test_zeros_stay_zeros_and_tiny_values_stay_tiny() -> None:
    for scheme in SCHEMES:
        assert not scheme.restore(A, scheme.pack(A, np.zeros((2, 16), np.float32))).any()
        tiny = np.full((2, 16), 1e-9, np.float32)
        assert np.abs(scheme.restore(A, scheme.pack(A, tiny))).max() <= 2e-9


def test_values_too_large_for_half_precision_are_refused() -> None:
    with pytest.raises(errors.Incompatible, match="too large"):
        Scheme(bits="int4", group=None).pack(A, np.full((1, 4), 1e7, np.float32))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2, "scheme": "int4", "group": 64}', '{"version": 1, "scheme": "int3", "group": 64}',
     '{"version": 1, "scheme": "int4", "group": 0}', '{"version": 1, "scheme": "int4", "group": true}'],
)  # fmt: skip
def test_an_unknown_scheme_is_refused(text: str) -> None:
    with pytest.raises(errors.Incompatible, match="cannot read"):
        Scheme.of({"finch_quantization": text})


def test_scales_that_do_not_fit_are_refused() -> None:
    packed = Scheme(bits="int8", group=None).pack(A, random(0, 2, 8))
    with pytest.raises(errors.Incompatible, match="do not fit"):
        Scheme(bits="int8", group=4).restore(A, packed)


def test_group_longer_than_the_row_restores_the_row() -> None:
    values = random(0, 2, 8)
    packed = Scheme(bits="int8", group=None).pack(A, values)
    restored = Scheme(bits="int8", group=10**12).restore(A, packed)
    np.testing.assert_array_equal(restored, Scheme(bits="int8", group=None).restore(A, packed))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("length", [8, 17, 34])
@pytest.mark.parametrize("name", [A, B])
def test_bound_of_the_norm_is_not_below_the_norm(scheme: Scheme, length: int, name: str) -> None:
    values = np.full((2, length), 3.0, np.float32)
    packed = scheme.pack(name, values if name == A else values.T)
    # A file from elsewhere may hold any number that its dtype has, also one that quantizing never writes.
    packed[name] = np.full_like(packed[name], 0 if packed[name].dtype == np.uint8 else -128)
    dtype = "U8" if packed[name].dtype == np.uint8 else "I8"
    numbers = TensorInfo(dtype=dtype, shape=packed[name].shape, start=0, end=packed[name].nbytes)
    norm_of_scales = float(np.linalg.norm(packed[name + ".scale"].astype(np.float32)))
    bound, norm = scheme.bound_norm(name, numbers, norm_of_scales), np.linalg.norm(scheme.restore(name, packed))
    assert norm <= bound * (1 + 1e-6)
    if scheme.group is None:
        assert bound <= norm * (1 + 1e-6), "all numbers are the largest, so that the bound is the norm"
