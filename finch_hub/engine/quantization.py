"""Adapters at fewer bits: whole numbers of 8 or 4 bits, with one scale for each group along a rank direction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.engine.tensor_file import Float32, TensorInfo

METADATA = "finch_quantization"
SCALE = ".scale"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How the tensors of one file are stored.

    Attributes:
        bits: ``int8`` (one number a byte) or ``int4`` (two a byte, the earlier one in the lower half).
        group: numbers that share a scale, along the longer side; None is the whole row of A or column of B.

    """

    bits: Literal["int8", "int4"]
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
            if version == 1 and bits in ("int8", "int4") and (group is None or (type(group) is int and group > 0)):
                return cls(bits=bits, group=group)
            what = f"is {text[:100]!r}, which this version cannot read"
        except (ValueError, KeyError, TypeError):
            what = f"is {text[:100]!r}, which is no scheme"
        raise errors.Incompatible(
            errors.Problem(where=METADATA, what=what, fix="upgrade finch-hub, or export it again")
        )

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


def _long_axis(name: str) -> int:
    return 0 if "lora_B" in name or "lora_embedding_B" in name else 1


def _unpack(packed: NDArray[np.uint8]) -> Float32:
    values = np.empty((packed.shape[0], 2 * packed.shape[1]), np.float32)
    values[:, 0::2] = packed & 15
    values[:, 1::2] = packed >> 4
    values -= 8.0
    return values
