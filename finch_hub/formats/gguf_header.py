"""Check of the header of an untrusted GGUF file: everything that it declares must be in the file.

The format (GGUF, of https://github.com/ggml-org/ggml) is little-endian: magic, version, numbers of
tensors and of fields, the fields, the entries of the tensors, and after padding the data. The `gguf` library believes
all numbers.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from finch_hub import errors
from finch_hub.formats.regular_files import open_regular_file

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_TENSORS = _MAX_FIELDS = 65_536
_MAX_MEMBERS = 2**22  # of all arrays together; the largest vocabularies have a million texts, ranks and merges
_MAX_DIMENSIONS = 4
_MAX_NAME = 65_535
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by its type
_TEXT, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")  # of a text
_BLOCK = 2**16


def check_gguf_header(path: Path) -> None:
    """Check the numbers in the header of a GGUF file against its size.

    Raises:
        Incompatible: the file is not a GGUF file, or declares more than it has.
        RefusedArtifact: the file is not a regular file, or cannot be read.
    """
    with open_regular_file(path) as stream:
        try:
            _Header(stream).check()
        except (_Damage, struct.error, UnicodeDecodeError) as damage:
            what = str(damage) if isinstance(damage, _Damage) else "ends within its header"
            raise errors.Incompatible(what, where=str(path), fix="fetch the file again") from None


class _Damage(Exception):
    """A header that declares what cannot be."""


class _Header:
    """Header of an open file, which is read from its beginning to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = stream.seek(0, 2)
        self._members = _MAX_MEMBERS
        stream.seek(0)

    def check(self) -> None:
        if self._stream.read(4) != _MAGIC:
            raise _Damage("is not a GGUF file")
        version = self._number("I")
        if version not in _VERSIONS:
            known = " or ".join(map(str, _VERSIONS))
            raise _Damage(f"is GGUF of version {version}, not {known} in little-endian order")
        tensors, fields = self._number("Q"), self._number("Q")
        self._compare(tensors, _MAX_TENSORS, "tensors")
        self._compare(fields, _MAX_FIELDS, "fields")
        for _ in range(fields):
            self._text(_MAX_NAME)
            self._value(self._number("I"))
        for _ in range(tensors):
            self._tensor()

    def _tensor(self) -> None:
        self._text(_MAX_NAME)
        dimensions = self._number("I")
        self._compare(dimensions, _MAX_DIMENSIONS, "dimensions of a tensor")
        elements = math.prod(self._number("Q") for _ in range(dimensions))
        self._number("I")
        offset = self._number("Q")
        # No format takes less than an eighth of a byte for a number.
        if offset + elements // 8 > self._size:
            raise _Damage("declares a tensor beyond its end")

    def _value(self, kind: int) -> None:
        if kind == _TEXT:
            self._text(self._size)
        elif kind == _ARRAY:
            member, count = self._number("I"), self._number("Q")
            self._members -= count
            if self._members < 0:
                raise _Damage(f"declares more than {_MAX_MEMBERS:,} members of arrays")
            if member == _ARRAY:
                raise _Damage("has an array of arrays, which no model needs")
            if member == _TEXT:
                self._skip_texts(count)
            else:
                self._skip(count * self._size_of(member))
        else:
            self._skip(self._size_of(kind))

    def _size_of(self, kind: int) -> int:
        if kind not in _SIZES:
            raise _Damage(f"has a field of the unknown type {kind}")
        return _SIZES[kind]

    def _text(self, longest: int) -> None:
        length = self._number("Q")
        self._compare(length, longest, "bytes of a text")
        self._skip(length)

    def _skip_texts(self, count: int) -> None:
        """Skip texts. Their lengths are read in blocks, since a vocabulary has a million of them."""
        block, place = b"", 0
        for left in range(count, 0, -1):
            if place + 8 > len(block):
                self._stream.seek(place - len(block), 1)  # forth over a text, or back to a length that is cut
                block, place = self._stream.read(min(16 * left, _BLOCK)), 0
            (length,) = _LENGTH.unpack_from(block, place)
            self._compare(length, self._size, "bytes of a text")
            place += 8 + length
        self._skip(place - len(block))

    def _number(self, code: str) -> int:
        number: int = struct.unpack(f"<{code}", self._stream.read(struct.calcsize(code)))[0]
        return number

    def _skip(self, count: int) -> None:
        if self._stream.tell() + count > self._size:
            raise _Damage("ends within its header")
        self._stream.seek(count, 1)

    def _compare(self, count: int, limit: int, what: str) -> None:
        if count > limit:
            raise _Damage(f"declares {count:,} {what}, more than {limit:,}")
