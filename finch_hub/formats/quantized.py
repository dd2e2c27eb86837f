"""Quantized factors: integers of 8 or 4 bits with one scale a group.

A's rows and B's columns are the rank directions, and groups run along them. A quantized tensor keeps its name and holds
I8, or U8 with two numbers a byte. Numbers are packed along the longer side, so the shape still shows the rank. The
tensor ``<name>.scale`` holds the scales as F16. A value is its number times its group's scale. The file's metadata have
the scheme under ``finch_quantization``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.peft_names import split_name
from finch_hub.formats.safetensors_header import FLOATS, TensorInfo

METADATA = "finch_quantization"
SCALE = ".scale"
Bits = Literal["int8", "int4"]
_RANGE = {"int8": (-127, 127), "int4": (-8, 7)}
_LARGEST = {"I8": 128, "U8": 8}  # absolute value of a number, by the tensor's dtype
_CLIPS = np.linspace(0.75, 1.0, 6, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """Quantization scheme of a file.

    Attributes:
        bits: ``int8`` (one number a byte) or ``int4`` (two a byte with an offset of 8, the first in the lower half).
        group: numbers that share a scale, along the longer side; None is the whole row of A or column of B.
    """

    bits: Bits
    group: int | None

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Scheme | None:
        """Read the scheme from a file's metadata; return None if the file is not quantized.

        Raises:
            Incompatible: the scheme is malformed or of another version.
        """
        text = metadata.get(METADATA)
        if text is None:
            return None
        try:
            data = json.loads(text)
            version, bits, group = data["version"], data["scheme"], data["group"]
            known = version == 1 and bits in get_args(Bits) and (group is None or (type(group) is int and group > 0))
        except (ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            what, fix = f"is {text[:100]!r}, which this version cannot read", "upgrade finch-hub or export it again"
            raise errors.Incompatible(what, where=METADATA, fix=fix)
        return cls(bits=bits, group=group)

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a file with this scheme."""
        return {METADATA: json.dumps({"version": 1, "scheme": self.bits, "group": self.group}, sort_keys=True)}

    def pack(self, name: str, values: Float32) -> dict[str, NDArray[Any]]:
        """Quantize a factor and return its numbers and scales by their names in the file.

        Each group gets the scale of least squared error among a few around its largest value. A factor with an odd
        longer side is stored with one number a byte.

        Raises:
            Incompatible: the values are too large for scales in half precision.
        """
        turn = _long_axis(name) == 0
        rows = np.ascontiguousarray(values.T if turn else values)
        bits: Bits = "int8" if rows.shape[1] % 2 else self.bits
        grouped, length = _in_groups(rows, self.group), rows.shape[1]
        scales = _scales(grouped, bits)
        if not np.isfinite(scales).all():
            raise errors.Incompatible("holds values that are too large to quantize", where=name)
        numbers = _numbers(grouped, scales.astype(np.float32)[:, :, None], bits)
        flat = numbers.reshape(rows.shape[0], -1)[:, :length].astype(np.int8)
        codes = _pack(flat) if bits == "int4" else flat
        stored = {name: codes, name + SCALE: scales}
        return {key: np.ascontiguousarray(array.T if turn else array) for key, array in stored.items()}

    def logical_shapes(self, tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors before packing, without the scales."""
        scales = scales_of(tensors)
        shapes = {name: info.shape for name, info in tensors.items() if name not in scales}
        for name in shapes:
            if name + SCALE in scales and tensors[name].dtype == "U8":
                axis = _long_axis(name)
                shapes[name] = tuple(2 * n if i == axis else n for i, n in enumerate(shapes[name]))
        return shapes

    def check_scales(self, tensors: Mapping[str, TensorInfo]) -> list[errors.Problem]:
        """Return the problems of scales that do not fit their numbers."""
        shapes = self.logical_shapes(tensors)
        problems: list[errors.Problem] = []
        for name in sorted(scales_of(tensors)):
            scaled = name.removesuffix(SCALE)
            numbers, scales = tensors[scaled], tensors[name]
            if numbers.dtype not in _LARGEST or scales.dtype not in FLOATS:
                what = f"scales {numbers.dtype} by {scales.dtype}, not I8 or U8 by floating-point numbers"
            elif scaled not in shapes:
                what = "scales a scale"
            elif len(numbers.shape) != 2 or len(scales.shape) != 2:
                what = "and the numbers that it scales are not matrices"
            elif scales.shape != (expected := self._scales_shape(scaled, shapes[scaled])):
                what = f"is {list(scales.shape)}, not {list(expected)}"
            else:
                continue
            problems.append(errors.Problem(where=name, what=what))
        return problems

    def bound_norm(self, name: str, numbers: TensorInfo, norm_of_scales: float) -> float:
        """Return an upper bound of a quantized tensor's Frobenius norm."""
        length = numbers.shape[_long_axis(name)] * (2 if numbers.dtype == "U8" else 1)
        return norm_of_scales * _LARGEST[numbers.dtype] * math.sqrt(min(self.group or length, length))

    def _scales_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = _long_axis(name)
        return tuple(-(-n // (self.group or n)) if i == axis else n for i, n in enumerate(shape))

    def restore(self, name: str, stored: Mapping[str, NDArray[Any]]) -> Float32:
        """Return a quantized tensor as float32; `stored` holds its numbers and its scales.

        Raises:
            Incompatible: numbers and scales do not fit together.
        """
        # The code works on rows along the longer side, so B is transposed.
        turn = _long_axis(name) == 0
        codes, scales = (array.T if turn else array for array in (stored[name], stored[name + SCALE]))
        values = _unpack(codes) if codes.dtype == np.uint8 else codes.astype(np.float32)
        length = values.shape[1]
        group = min(self.group or length, length)
        if scales.shape != (values.shape[0], -(-length // group)):
            what = f"numbers {list(codes.shape)} and scales {list(scales.shape)} do not fit groups of {group}"
            raise errors.Incompatible(what, where=name)
        values *= np.repeat(scales.astype(np.float32), group, axis=1)[:, :length]
        return np.ascontiguousarray(values.T if turn else values)


def scales_of(names: Iterable[str]) -> frozenset[str]:
    """Return the names of a quantized file's tensors that are scales of others."""
    known = frozenset(names)
    return frozenset(name for name in known if name.endswith(SCALE) and name.removesuffix(SCALE) in known)


def _long_axis(name: str) -> int:
    return 0 if split_name(name)[1] in ("B", "embedding_B") else 1


def _in_groups(rows: Float32, group: int | None) -> Float32:
    """Cut rows ``[n, length]`` into ``[n, groups, group]``; pad the last group with zeros."""
    group = min(group or rows.shape[1], rows.shape[1])
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % group)))
    return padded.reshape(rows.shape[0], -1, group)


def _scales(grouped: Float32, bits: Bits) -> NDArray[np.float16]:
    """Return each group's scale ``[n, groups]`` of least squared error, as float16."""
    smallest, largest = _RANGE[bits]
    ends = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2, keepdims=True), axis=2)[:, :, 0]
    if np.abs(ends).max(initial=0) > largest * float(np.finfo(np.float16).max):
        return np.full(ends.shape, np.inf, np.float16)
    whole = (np.abs(ends) / largest).astype(np.float16)
    if bits == "int8":  # clipping the largest value never pays with this many numbers
        return whole
    # There is one more number below zero than above. A negative scale gives it to the largest value.
    candidates = [
        (end * clip).astype(np.float16) for clip in _CLIPS for end in (np.abs(ends) / largest, ends / smallest)
    ]
    best, least = whole, np.full(ends.shape, np.inf, np.float32)
    for scales in candidates:
        wide = scales.astype(np.float32)[:, :, None]
        missed = _numbers(grouped, wide, bits) * wide - grouped
        error = np.einsum("ngi,ngi->ng", missed, missed)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return best


def _numbers(grouped: Float32, scales: Float32, bits: Bits) -> Float32:
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    numbers = grouped * inverse
    return np.clip(np.rint(numbers, out=numbers), *_RANGE[bits], out=numbers)


def _pack(numbers: NDArray[np.int8]) -> NDArray[np.uint8]:
    codes = (numbers + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    return packed


def _unpack(packed: NDArray[np.uint8]) -> Float32:
    values = np.empty((packed.shape[0], 2 * packed.shape[1]), np.float32)
    values[:, 0::2] = packed & 15
    values[:, 1::2] = packed >> 4
    values -= 8.0
    return values
