"""Check of the header of an untrusted GGUF file: it is of a whole model, and the file has what the header declares.

The format (GGUF, of https://github.com/ggml-org/ggml) is little-endian: magic, version, numbers of
tensors and of fields, the fields, the entries of the tensors, and after padding the data. The `gguf` library believes
all numbers.
"""

from __future__ import annotations

import math
import re
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
_WHOLE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_FRACTIONS = {6: "f", 12: "d"}
_MAX_LAYERS = 2_000
_TEXT, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")  # of a text
_BLOCK = 2**16
_LAYER = re.compile(rb"blk\.(\d{1,9})\.")
_WANTED = frozenset(
    {"general.alignment", "general.architecture", "general.type", "split.count", "tokenizer.ggml.model"}
)
_LAYERS = ".block_count"
_OTHER_TYPES = {
    "adapter": ("is a LoRA adapter, not a base model", "name the base it was trained on"),
    "mmproj": ("is a part of a model for images or sound, not a language model", "take the file of the language model"),
    "vocab": ("has a vocabulary and no weights", "take the file with the weights"),
    "imatrix": ("has statistics for a quantization, not a model", "take the file of the model"),
}


def check_gguf_header(path: Path) -> None:
    """Check the numbers in the header of a GGUF file against its size, and that it is of a whole language model.

    Raises:
        Incompatible: the file is not a GGUF file of a whole language model, or declares more than it has.
        RefusedArtifact: the file is not a regular file, or cannot be read.
    """
    with open_regular_file(path) as stream:
        try:
            _Header(stream).check()
        except struct.error:
            raise errors.Incompatible("ends within its header", where=str(path), fix="fetch the file again") from None
        except _Damage as damage:
            raise errors.Incompatible(f"{damage}", where=str(path), fix=damage.fix) from None


def read_gguf_texts(path: Path, names: frozenset[str]) -> dict[str, str]:
    """Return the texts with these names in the header of a GGUF file, none if the header is damaged."""
    try:
        with open_regular_file(path) as stream:
            return _Header(stream).read_texts(names)
    except (struct.error, _Damage, errors.RefusedArtifact):
        return {}


class _Damage(Exception):
    """A header that declares what cannot be, or no model."""

    def __init__(self, what: str, fix: str = "fetch the file again") -> None:
        super().__init__(what)
        self.fix = fix


class _Header:
    """Header of an open file, which is read from its beginning to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = stream.seek(0, 2)
        self._members = _MAX_MEMBERS
        self._fields: dict[str, object] = {}
        self._layers: set[int] = set()
        stream.seek(0)

    def check(self) -> None:
        """Check all of the header."""
        tensors = self._read_fields(_WANTED)
        self._check_fields()
        for _ in range(tensors):
            self._tensor()
        self._check_layers()

    def read_texts(self, names: frozenset[str]) -> dict[str, str]:
        """Return the texts with these names."""
        self._read_fields(names)
        texts = {name: self._fields.get(name) for name in names}
        return {name: text.decode(errors="replace") for name, text in texts.items() if isinstance(text, bytes)}

    def _read_fields(self, wanted: frozenset[str]) -> int:
        """Read the fields, and return the number of tensors."""
        if self._stream.read(4) != _MAGIC:
            raise _Damage("is not a GGUF file")
        version = self._number("I")
        if version not in _VERSIONS:
            if int.from_bytes(struct.pack("<I", version), "big") in _VERSIONS:
                raise _Damage("is a GGUF file in big-endian order", "convert it to little-endian order")
            known = " or ".join(map(str, _VERSIONS))
            raise _Damage(
                f"is GGUF of version {version}, not {known}", "convert the model again with a newer converter"
            )
        tensors, fields = self._number("Q"), self._number("Q")
        self._compare(tensors, _MAX_TENSORS, "tensors")
        self._compare(fields, _MAX_FIELDS, "fields")
        for _ in range(fields):
            name = self._text(_MAX_NAME).decode(errors="replace")
            value = self._value(self._number("I"))
            if name in wanted or name.endswith(_LAYERS):
                self._fields[name] = value
        return tensors

    def _check_fields(self) -> None:
        """Check that the file is a whole language model, as far as its fields tell."""
        kind = self._fields.get("general.type")
        if isinstance(kind, bytes) and (other := _OTHER_TYPES.get(kind.decode(errors="replace"))):
            raise _Damage(*other)
        parts = self._fields.get("split.count")
        if isinstance(parts, int) and parts > 1:
            raise _Damage(f"is one of {parts} parts of a model", "join them with `llama-gguf-split --merge`")
        alignment = self._fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _Damage("has an alignment that is not a power of two")

    def _check_layers(self) -> None:
        """Check the number of layers, for which transformers would take memory, or leave out what it does not name."""
        if not self._layers:
            raise _Damage("has no tensors of layers", "take a file with the weights of a language model")
        if "tokenizer.ggml.model" not in self._fields:
            raise _Damage("has no tokenizer", "convert the model again, with its tokenizer")
        family = self._fields.get("general.architecture")
        if not isinstance(family, bytes):
            raise _Damage("does not name its architecture")
        declared = self._fields.get(family.decode(errors="replace") + _LAYERS)
        if not isinstance(declared, int):
            raise _Damage("has no number of layers")
        self._compare(declared, _MAX_LAYERS, "layers")
        if self._layers != set(range(declared)):
            found = f"{len(self._layers):,} with the highest number {max(self._layers):,}"
            raise _Damage(f"declares {declared:,} layers, numbered from 0, but has tensors of {found}")

    def _tensor(self) -> None:
        if layer := _LAYER.match(self._text(_MAX_NAME)):
            self._layers.add(int(layer[1]))
        dimensions = self._number("I")
        self._compare(dimensions, _MAX_DIMENSIONS, "dimensions of a tensor")
        elements = math.prod(self._number("Q") for _ in range(dimensions))
        self._number("I")
        offset = self._number("Q")
        # No format takes less than an eighth of a byte for a number.
        if offset + elements // 8 > self._size:
            raise _Damage("declares a tensor beyond its end")

    def _value(self, kind: int) -> object:
        """Return a text or a whole number, None for other values."""
        if kind == _TEXT:
            return self._text(self._size)
        if kind in _WHOLE:
            return self._number(_WHOLE[kind])
        if kind in _FRACTIONS:
            if not math.isfinite(self._number(_FRACTIONS[kind])):
                raise _Damage("has a field that is not a finite number")
            return None
        if kind == _ARRAY:
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
        return None

    def _size_of(self, kind: int) -> int:
        if kind not in _SIZES:
            raise _Damage(f"has a field of the unknown type {kind}")
        return _SIZES[kind]

    def _text(self, longest: int) -> bytes:
        """Return the beginning of a text, which is all of a name."""
        length = self._number("Q")
        self._compare(length, longest, "bytes of a text")
        beginning = self._stream.read(min(length, _MAX_NAME))
        self._skip(length - len(beginning))
        return beginning

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
