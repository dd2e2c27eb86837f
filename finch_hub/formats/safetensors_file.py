"""A safetensors file, read tensor by tensor or by blocks of bytes with NumPy.

Importing torch costs seconds and over 200 MB, more than a whole merge needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.formats.float_conversion import Float32, to_float32
from finch_hub.formats.safetensors_header import (
    FLOATS,
    NUMPY_CODES,
    TensorInfo,
    read_safetensors_header,
    write_safetensors_header,
)


class SafetensorsFile:
    """An open safetensors file.

    Attributes:
        tensors: by name, in the order of their bytes.
        metadata: texts of the header.

    Raises:
        NotFound: the file does not exist.
        InvalidInput: the file is not a safetensors file, or its length differs from its header.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise errors.NotFound("file", str(path))
        self.path = path
        header = read_safetensors_header(path)
        self.tensors, self.metadata = header.tensors, header.metadata
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _damaged(path, f"cannot be opened: {error.strerror}") from None

    def read_stored(self, name: str) -> NDArray[Any]:
        """Return a tensor in its stored dtype; bfloat16 as uint16.

        Raises:
            InvalidInput: the file ends early or cannot be read.
        """
        info = self.tensors[name]
        data = np.empty(info.shape, NUMPY_CODES[info.dtype])
        self.read_into(data.reshape(-1).data.cast("B"), info.start)
        return data

    def read(self, name: str) -> Float32:
        """Return a floating-point tensor as float32.

        Raises:
            InvalidInput: the tensor has another type, or the file ends early or cannot be read.
        """
        dtype = self.tensors[name].dtype
        if dtype not in FLOATS:
            raise _damaged(self.path, f"stores {name} as {dtype}, which is not a floating-point type")
        return to_float32(self.read_stored(name), dtype)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer with the file's bytes from `start` on.

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

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]], metadata: Mapping[str, str]) -> None:
    """Write tensors, given by dtype and stored values; the same input gives the same bytes."""
    infos = {
        name: TensorInfo(dtype=dtype, shape=array.shape, start=0, end=array.nbytes)
        for name, (dtype, array) in tensors.items()
    }
    header, order = write_safetensors_header(infos, metadata)
    with path.open("wb") as stream:
        stream.write(header)
        for name in order:
            stream.write(np.ascontiguousarray(tensors[name][1]).tobytes())


def _damaged(path: Path, what: str) -> errors.InvalidInput:
    return errors.InvalidInput(what, where=str(path), fix="fetch or copy the file again")
