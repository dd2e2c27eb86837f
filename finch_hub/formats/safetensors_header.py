"""Strict reader and writer of safetensors headers, for untrusted files.

The format (https://huggingface.co/docs/safetensors) has three parts. The first eight bytes are the header's length,
little-endian. The header is a JSON object that maps each tensor's name to dtype, shape and data offsets. The data
follow without gaps. The `safetensors` library accepts duplicate names, sizes that overflow, unusual names and megabytes
of metadata; this reader refuses them.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finch_hub import errors
from finch_hub.formats import git_lfs
from finch_hub.formats.regular_files import open_regular_file

MAX_HEADER = 8 * 2**20
MAX_METADATA = 2**20
NUMPY_CODES: Mapping[str, str] = MappingProxyType(
    {"U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4", "BF16": "<u2", "F16": "<f2",
     "U16": "<u2", "I16": "<i2", "F8_E4M3": "<u1", "F8_E5M2": "<u1", "I8": "<i1", "U8": "<u1", "BOOL": "<b1"}
)  # fmt: skip
"""NumPy's code of each dtype, in the order in which the `safetensors` library writes tensors.

The last digit is the size in bytes. Unsigned integers hold bfloat16 and 8-bit floats, which NumPy does not know.
"""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_MAX_DIMENSIONS = 8
_MAX_NAME = 512
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_FORMS = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes it"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Dtype, shape and position of a tensor: bytes `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Length in the file."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsHeader:
    """Checked declarations of a file, with the tensors in the order of their bytes."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size: int


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of a file, without its data.

    Raises:
        RefusedArtifact: with every problem found. The file is not a regular file or has another format. Its header is
            larger than 8 MB or than the file. A name is repeated or unsafe. A shape is empty, negative or too large.
            Tensors overlap, leave gaps or end before the file. The metadata are over 1 MB or not text.
    """
    with open_regular_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(len(git_lfs.POINTER))
        git_lfs.check_content(start, name=path.name)
        stream.seek(8)
        start = start[:8]
        # The length of a header of 640 bytes begins like a pickle, so the first byte of the JSON decides.
        form = next((form for magic, form in _FORMS if start.startswith(magic)), None)
        if form is not None and os.pread(stream.fileno(), 1, 8) != b"{":
            raise _refused(path, f"is {form}", "save it with safetensors; pickles can run code and are never loaded")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length < 2:
            raise _refused(path, "is not a safetensors file: it has no header")
        if length > MAX_HEADER or length > size - 8:
            limit = f"the limit of {MAX_HEADER}" if length > MAX_HEADER else f"the file, which has {size}"
            raise _refused(path, f"declares a header of {length} bytes, more than {limit}")
        text = stream.read(length)
    problems: list[str] = []
    entries = _parse(path, text, problems)
    metadata = _check_metadata(entries.pop("__metadata__", {}), problems)
    data_start = 8 + length
    tensors: dict[str, TensorInfo] = {}
    for name, declared in entries.items():
        if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
            problems.append(f"tensor name {name[:60]!r} has characters or a length that no module path has")
            continue
        info = _read_entry(name, declared, data_start, problems)
        if info is not None:
            tensors[name] = info
    if not entries:
        problems.append("holds no tensors")
    if not problems:  # the layout can be checked only if all entries are valid
        problems += _layout_problems(tensors, data_start, size)
    if problems:
        raise errors.RefusedArtifact([errors.Problem(what=what) for what in problems], subject=path.name)
    in_order = dict(sorted(tensors.items(), key=lambda item: item[1].start))
    return SafetensorsHeader(tensors=MappingProxyType(in_order), metadata=MappingProxyType(metadata), size=size)


def write_safetensors_header(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> tuple[bytes, Sequence[str]]:
    """Return the canonical header of these tensors, and the order of their bytes.

    The order (wide dtypes first, then names) is that of the `safetensors` library, so a file from it keeps its bytes.
    """
    place = {dtype: number for number, dtype in enumerate(NUMPY_CODES)}
    order = sorted(tensors, key=lambda name: (place[tensors[name].dtype], name))
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in order:
        info = tensors[name]
        end = offset + info.nbytes
        entries[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, order


def _refused(path: Path, what: str, fix: str = "") -> errors.RefusedArtifact:
    return errors.RefusedArtifact(what, fix=fix, subject=path.name)


def _parse(path: Path, text: bytes, problems: list[str]) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
            problems.append(f"its header repeats {', '.join(repr(name[:60]) for name in repeated[:3])}")
        return found

    if not text.startswith(b"{"):
        raise _refused(path, "is not a safetensors file: its header is not a JSON object")
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"has a header that is not JSON: {str(error)[:100]}") from None
    if not isinstance(parsed, dict):
        raise _refused(path, "is not a safetensors file: its header is not a JSON object")
    return parsed


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_metadata(found: Any, problems: list[str]) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        problems.append("its __metadata__ is not a table of texts")
        return {}
    try:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in found.items())
    except UnicodeEncodeError:
        problems.append("its __metadata__ is not valid Unicode")
        return {}
    if size > MAX_METADATA:
        problems.append(f"its __metadata__ has {size} bytes, more than {MAX_METADATA}")
    return found


def _read_entry(name: str, declared: Any, data_start: int, problems: list[str]) -> TensorInfo | None:
    if not isinstance(declared, dict) or declared.keys() != {"dtype", "shape", "data_offsets"}:
        problems.append(f"{name}: its entry must have dtype, shape and data_offsets, and nothing else")
        return None
    dtype, shape, offsets = declared["dtype"], declared["shape"], declared["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY_CODES:
        problems.append(f"{name}: unknown dtype {str(dtype)[:20]!r}")
        return None
    if not _is_counts(shape) or len(shape) > _MAX_DIMENSIONS or not all(shape):
        problems.append(f"{name}: shape {str(shape)[:60]} is not a list of at most {_MAX_DIMENSIONS} positive numbers")
        return None
    if not _is_counts(offsets) or len(offsets) != 2:
        problems.append(f"{name}: data_offsets {str(offsets)[:60]} are not two positions")
        return None
    begin, end = offsets
    expected = math.prod(shape) * int(NUMPY_CODES[dtype][-1])
    if end - begin != expected:
        problems.append(f"{name}: {dtype} {shape} takes {expected} bytes, but its data_offsets hold {end - begin}")
        return None
    return TensorInfo(dtype=dtype, shape=tuple(shape), start=data_start + begin, end=data_start + end)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _layout_problems(tensors: Mapping[str, TensorInfo], data_start: int, size: int) -> Iterator[str]:
    position = data_start
    for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
        if info.start != position:
            yield f"{name}: overlaps another tensor" if info.start < position else f"{name}: a gap lies before it"
        position = max(position, info.end)
    if position > size:
        yield f"its tensors end at byte {position}, but the file has {size}"
    elif position < size:
        yield f"{size - position} bytes follow its last tensor"
