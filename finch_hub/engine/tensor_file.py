"""One safetensors file read tensor by tensor, or by blocks of rows, with numpy alone.

Importing torch costs seconds and over 200 MB, which is more than a whole merge needs; and bfloat16, which numpy does
not know, is the upper half of a float32.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors

Float32 = NDArray[np.float32]
STORAGE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "F64": np.dtype("<f8"),
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
        "I16": np.dtype("<i2"),
        "I8": np.dtype("<i1"),
        "U8": np.dtype("<u1"),
        "BOOL": np.dtype("?"),
        "F8_E4M3": np.dtype("<u1"),
        "F8_E5M2": np.dtype("<u1"),
    }
)
"""How numpy holds each safetensors dtype; those it does not know as unsigned integers of the same size."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_MAX_HEADER = 100 * 2**20  # the format's own limit


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Where one tensor lies: `start` is its offset in the file, `nbytes` its length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class TensorFile:
    """An open safetensors file; `tensors` by name, `metadata` its texts, `header_bytes` all before the data.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no safetensors file, or shorter or longer than its header says.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise errors.NotFound("file", str(path)) from None
        except OSError as error:
            raise _damaged(path, f"cannot be opened: {error.strerror}") from None
        try:
            self.size = os.fstat(self.fd).st_size
            self.header_bytes, self.tensors, self.metadata = self._header()
        except BaseException:
            self.close()
            raise

    def _header(self) -> tuple[int, Mapping[str, TensorInfo], Mapping[str, str]]:
        prefix = os.pread(self.fd, 8, 0) if self.size >= 8 else b""
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(_MAX_HEADER, self.size - 8):
            raise _damaged(self.path, "is no safetensors file, or is cut short within its header")
        try:
            header = json.loads(os.pread(self.fd, length, 8))
            metadata = {str(key): str(value) for key, value in (header.pop("__metadata__", None) or {}).items()}
            tensors = {name: _info(name, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(self.path, f"has a header that cannot be read: {error}") from None
        end = max((info.start + info.nbytes for info in tensors.values()), default=8 + length)
        if end != self.size:
            raise _damaged(self.path, f"holds {self.size:,} bytes where its header asks for {end:,}")
        return 8 + length, MappingProxyType(tensors), MappingProxyType(metadata)

    def raw(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored; bfloat16 comes as uint16.

        Raises:
            InvalidInput: the file ends early or cannot be read.

        """
        info = self.tensors[name]
        data = np.empty(info.shape, STORAGE[info.dtype])
        self.read_into(memoryview(data.reshape(-1)).cast("B"), info.start)
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


def header_of(entries: Sequence[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes before the data for tensors laid one after the other in the given order.

    The `start` of the entries is not looked at: their order decides.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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


def _info(name: str, entry: Mapping[str, Any], data: int) -> TensorInfo:
    start, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype not in STORAGE:
        raise ValueError(f"{name} is stored as {dtype}, which is not supported")
    if any(not isinstance(n, int) or n < 0 for n in (start, end, *shape)):
        raise ValueError(f"{name} has a size that is no natural number")
    nbytes = STORAGE[dtype].itemsize
    for n in shape:
        nbytes *= n
    if nbytes != end - start:
        raise ValueError(f"{name} takes {end - start} bytes, its shape {list(shape)} asks for {nbytes}")
    return TensorInfo(name=name, dtype=dtype, shape=shape, start=data + start, nbytes=nbytes)


def _damaged(path: Path, what: str) -> errors.InvalidInput:
    return errors.InvalidInput(errors.Problem(what=what, where=str(path), fix="fetch or copy the file again"))


def is_full(error: OSError) -> bool:
    """Return whether an error of the operating system says that there is no room for what is written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
