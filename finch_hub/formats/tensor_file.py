"""One safetensors file read tensor by tensor, or by blocks of rows, with numpy alone.

Importing torch costs seconds and over 200 MB, which is more than a whole merge needs; and bfloat16, which numpy does
not know, is the upper half of a float32.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.formats.safetensors_header import TensorInfo, read_safetensors_header, write_safetensors_header

Float32 = NDArray[np.float32]
STORAGE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "F64": np.dtype("<f8"),
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),
        **{f"{kind}{bits}": np.dtype(f"<{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)},
        "BOOL": np.dtype("?"),
        "F8_E4M3": np.dtype("<u1"),
        "F8_E5M2": np.dtype("<u1"),
    }
)
"""How numpy holds each safetensors dtype; those it does not know as unsigned integers of the same size."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class TensorFile:
    """An open safetensors file; `tensors` by name in the order of their bytes, `metadata` its texts.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no safetensors file, or shorter or longer than its header says.

    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise errors.NotFound("file", str(path))
        self.path = path
        header = read_safetensors_header(path)
        self.tensors, self.metadata = header.tensors, header.metadata
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _damaged(path, f"cannot be opened: {error.strerror}") from None

    def raw(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored; bfloat16 comes as uint16.

        Raises:
            InvalidInput: the file ends early or cannot be read.

        """
        info = self.tensors[name]
        data = np.empty(info.shape, STORAGE[info.dtype])
        self.read_into(data.reshape(-1).data.cast("B"), info.start)
        return data

    def read(self, name: str) -> Float32:
        """Return a tensor of floats as float32.

        Raises:
            InvalidInput: it is not one of floats, or the file ends early or cannot be read.

        """
        dtype = self.tensors[name].dtype
        if dtype not in FLOATS:
            raise _damaged(self.path, f"stores {name} as {dtype}, which is no floating-point type")
        return to_float32(self.raw(name), dtype)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer of bytes from the offset on.

        Raises:
            InvalidInput: the file ends early or cannot be read.

        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self.fd, [buffer[done:]], start + done)
            except OSError as error:
                raise _damaged(self.path, f"cannot be read: {error.strerror}") from None
            if count == 0:
                raise _damaged(self.path, f"ends at byte {start + done:,}, {len(buffer) - done:,} bytes early")
            done += count

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_file(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of tensors given by their dtype and their values as stored; same input, same bytes."""
    infos = {
        name: TensorInfo(dtype=dtype, shape=array.shape, start=0, end=array.nbytes)
        for name, (dtype, array) in tensors.items()
    }
    header, order = write_safetensors_header(infos, metadata)
    with path.open("wb") as stream:
        stream.write(header)
        for name in order:
            stream.write(np.ascontiguousarray(tensors[name][1]).tobytes())


def to_float32(stored: NDArray[Any], dtype: str, out: Float32 | None = None) -> Float32:
    """Return stored values (bfloat16 as uint16) as float32, in `out` where it is given."""
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
    """Round finite values to the nearest of `dtype`, ties to even, into `stored`; `values` and `scratch` are used up.

    Returns:
        Whether all of them are still finite.

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


def _damaged(path: Path, what: str) -> errors.InvalidInput:
    return errors.InvalidInput(errors.Problem(what=what, where=str(path), fix="fetch or copy the file again"))


def is_full(error: OSError) -> bool:
    """Return whether an error of the operating system says that there is no room for what is written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
