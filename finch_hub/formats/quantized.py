"""How quantised adapters are stored: whole numbers of 8 or 4 bits, one scale for each group along a rank direction.

A's rows and B's columns are the rank directions, and groups run along them. Each quantised tensor keeps its name and
holds I8, or U8 with two numbers a byte, packed along the longer side so that the rank stays to be seen in its shape;
beside it lies ``<name>.scale`` in F16. A value is its number times its group's scale. The file's metadata say so under
``finch_quantization``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.formats.safetensors_header import TensorInfo
from finch_hub.formats.tensor_file import Float32

METADATA = "finch_quantization"
SCALE = ".scale"
Bits = Literal["int8", "int4"]
_RANGE = {"int8": (-127, 127), "int4": (-8, 7)}
_CLIPS = np.linspace(0.75, 1.0, 6, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How the tensors of one file are stored.

    Attributes:
        bits: ``int8`` (one number a byte) or ``int4`` (two a byte, the earlier one in the lower half, offset by 8).
        group: numbers that share a scale, along the longer side; None is the whole row of A or column of B.

    """

    bits: Bits
    group: int | None

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Scheme | None:
        """Read the scheme from a file's metadata, None where the file is not quantised.

        Raises:
            Incompatible: it is of another version, or not well formed.

        """
        text = metadata.get(METADATA)
        if text is None:
            return None
        try:
            data = json.loads(text)
            version, bits, group = data["version"], data["scheme"], data["group"]
            known = version == 1 and bits in get_args(Bits) and (group is None or (type(group) is int and group > 0))
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            what, fix = f"is {text[:100]!r}, which this version cannot read", "upgrade finch-hub, or export it again"
            raise errors.Incompatible(errors.Problem(where=METADATA, what=what, fix=fix))
        return cls(bits=bits, group=group)

    def metadata(self) -> dict[str, str]:
        """Return what a file says of this scheme."""
        return {METADATA: json.dumps({"version": 1, "scheme": self.bits, "group": self.group}, sort_keys=True)}

    def pack(self, name: str, values: Float32) -> dict[str, NDArray[Any]]:
        """Return the numbers and scales of one factor by their names in the file.

        Each group's scale is the one of a few, from its largest value down and up, that gives the least squared error.
        A factor whose longer side is odd cannot be packed by twos and is stored by bytes.

        Raises:
            Incompatible: the values are too large for scales in half precision.

        """
        turn = _long_axis(name) == 0
        rows = np.ascontiguousarray(values.T if turn else values)
        bits: Bits = "int8" if rows.shape[1] % 2 else self.bits
        grouped, length = _in_groups(rows, self.group), rows.shape[1]
        scales = _scales(grouped, bits)
        if not np.isfinite(scales).all():
            raise errors.Incompatible(errors.Problem(where=name, what="holds values too large to be quantised"))
        numbers = _numbers(grouped, scales.astype(np.float32)[:, :, None], bits)
        flat = numbers.reshape(rows.shape[0], -1)[:, :length].astype(np.int8)
        codes = _pack(flat) if bits == "int4" else flat
        stored = {name: codes, name + SCALE: scales}
        return {key: np.ascontiguousarray(array.T if turn else array) for key, array in stored.items()}

    def logical_shape(self, name: str, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        """Return the shape of a tensor as it was before packing."""
        shape = tensors[name].shape
        if name + SCALE not in tensors or tensors[name].dtype != "U8":
            return shape
        axis = _long_axis(name)
        return tuple(2 * n if i == axis else n for i, n in enumerate(shape))

    def restore(self, name: str, stored: Mapping[str, NDArray[Any]]) -> Float32:
        """Return one quantised tensor as float32; `stored` holds its numbers and, beside them, its scales.

        Raises:
            Incompatible: numbers and scales do not fit together.

        """
        # Everything happens in rows along the long side; B lies the other way round.
        turn = _long_axis(name) == 0
        codes, scales = (array.T if turn else array for array in (stored[name], stored[name + SCALE]))
        values = _unpack(codes) if codes.dtype == np.uint8 else codes.astype(np.float32)
        length = values.shape[1]
        group = self.group or length
        if scales.shape != (values.shape[0], -(-length // group)):
            what = f"numbers {list(codes.shape)} and scales {list(scales.shape)} do not fit groups of {group}"
            raise errors.Incompatible(errors.Problem(where=name, what=what))
        values *= np.repeat(scales.astype(np.float32), group, axis=1)[:, :length]
        return np.ascontiguousarray(values.T if turn else values)


def dequantize(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return all tensors of a file with the quantised ones as float32, and without their scales.

    Raises:
        Incompatible: the scheme is unknown, or numbers and scales do not fit together.

    """
    scheme = Scheme.of(metadata)
    if scheme is None:
        return dict(tensors)
    return {
        name: scheme.restore(name, tensors) if name + SCALE in tensors else tensor
        for name, tensor in tensors.items()
        if name not in scales_of(tensors)
    }


def scales_of(names: Iterable[str]) -> frozenset[str]:
    """Return which of a quantised file's tensors are scales of others."""
    known = frozenset(names)
    return frozenset(name for name in known if name.endswith(SCALE) and name.removesuffix(SCALE) in known)


def _long_axis(name: str) -> int:
    return 0 if "lora_B" in name or "lora_embedding_B" in name else 1


def _in_groups(rows: Float32, group: int | None) -> Float32:
    """Cut rows ``[n, length]`` into ``[n, groups, group]``, the last one filled up with zeros."""
    group = group or rows.shape[1]
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % group)))
    return padded.reshape(rows.shape[0], -1, group)


def _scales(grouped: Float32, bits: Bits) -> NDArray[np.float16]:
    """Choose the scale of each group ``[n, groups]`` that gives the least squared error, as it will be stored."""
    smallest, largest = _RANGE[bits]
    ends = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2, keepdims=True), axis=2)[:, :, 0]
    if np.abs(ends).max(initial=0) > largest * float(np.finfo(np.float16).max):
        return np.full(ends.shape, np.inf, np.float16)
    whole = (np.abs(ends) / largest).astype(np.float16)
    if bits == "int8":  # so many numbers that cutting the largest never pays
        return whole
    # There is one more number below zero than above: the sign may be turned so that the largest value gets it.
    tries = [(end * clip).astype(np.float16) for clip in _CLIPS for end in (np.abs(ends) / largest, ends / smallest)]
    best, least = whole, np.full(ends.shape, np.inf, np.float32)
    for scales in tries:
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
