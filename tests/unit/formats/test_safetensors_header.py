import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import fuzzing
from support.safetensors_files import arrays, pack, raw, tensor

from finch_hub import errors
from finch_hub.formats.safetensors_header import (
    MAX_HEADER,
    TensorInfo,
    read_safetensors_header,
    write_safetensors_header,
)

GOOD = tensor("F32", [2], 0, 8)
DATA = b"\0" * 8

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "no header"),
    "shorter than a length": (b"\1\2\3", "no header"),
    "header of no bytes": (struct.pack("<Q", 0), "no header"),
    "header beyond the file": (struct.pack("<Q", 100) + b"{}", "more than the file"),
    "header beyond the limit": (struct.pack("<Q", MAX_HEADER + 1) + b" " * (MAX_HEADER + 1), "more than the limit"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "more than the limit"),
    "no JSON": (raw("{nonsense"), "not JSON"),
    "a list": (raw("[]"), "not a JSON object"),
    "not UTF-8": (raw(b'{"\xff\xfe": 1}'), "not JSON"),
    "nested too deep": (raw('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "not JSON"),
    "NaN": (raw('{"a": NaN}'), "not JSON"),
    "a number of a million digits": (raw('{"a": ' + "9" * 10**6 + "}"), "not JSON"),
    "a pickle": (b"\x80\x04\x95" + b"\0" * 100, "is a pickle"),
    "torch.save": (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
    "GGUF": (b"GGUF" + b"\0" * 100, "GGUF"),
    "no tensors": (pack({}, b""), "no tensors"),
    "only metadata": (pack({"__metadata__": {"format": "pt"}}, b""), "no tensors"),
    "5 MB of metadata": (pack({"__metadata__": {"a": "x" * 5 * 2**20}, "t": GOOD}, DATA), "__metadata__ has 524"),
    "metadata that is no text": (pack({"__metadata__": {"a": 1}, "t": GOOD}, DATA), "not a table of texts"),
    "metadata with half a surrogate": (raw('{"__metadata__":{"a":"\\ud800"}}'), "not valid Unicode"),
    "duplicate name": (pack([("t", GOOD), ("t", GOOD)], DATA), "repeats 't'"),
    "duplicate metadata": (pack([("__metadata__", {}), ("__metadata__", {}), ("t", GOOD)], DATA), "repeats"),
    "duplicate key in an entry": (
        raw('{"t":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', DATA),
        "repeats",
    ),
    "overlap": (pack({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, b"\0" * 12), "overlaps"),
    "same bytes twice": (pack({"a": GOOD, "b": GOOD}, DATA), "overlaps"),
    "gap at the start": (pack({"t": tensor("F32", [2], 4, 12)}, b"\0" * 12), "a gap lies before it"),
    "gap": (pack({"a": GOOD, "b": tensor("F32", [2], 12, 20)}, b"\0" * 20), "a gap lies before it"),
    "trailing bytes": (pack({"t": GOOD}, DATA + b"payload"), "7 bytes follow"),
    "truncated": (pack({"t": GOOD}, DATA[:-1]), "but the file has"),
    "an empty dimension beside a giant one": (pack({"t": tensor("F32", [0, 2**60], 0, 0)}, b""), "shape"),
    "an empty tensor": (pack({"t": tensor("F32", [0], 0, 0)}, b""), "shape"),
    "a product beyond 64 bits": (pack({"t": tensor("F32", [2**62, 2**62], 0, 8)}, DATA), "takes"),
    "negative shape": (pack({"t": tensor("F32", [-1, -2], 0, 8)}, DATA), "shape"),
    "negative offset": (pack({"t": tensor("F32", [2], -8, 0)}, DATA), "data_offsets"),
    "offsets backwards": (pack({"t": tensor("F32", [2], 8, 0)}, DATA), "takes"),
    "fractional shape": (raw('{"t":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', DATA), "shape"),
    "true as a shape": (raw('{"t":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"\0"), "shape"),
    "nine dimensions": (pack({"t": tensor("F32", [1] * 9, 0, 4)}, b"\0" * 4), "shape"),
    "shape against offsets": (
        pack({"t": tensor("F32", [3], 0, 8)}, DATA),
        "takes 12 bytes, but its data_offsets hold 8",
    ),
    "unknown dtype": (pack({"t": tensor("PICKLE", [2], 0, 8)}, DATA), "unknown dtype"),
    "a field too many": (pack({"t": {**GOOD, "code": "x"}}, DATA), "nothing else"),
    "a field too few": (pack({"t": {"dtype": "F32", "shape": [2]}}, DATA), "nothing else"),
    "an entry that is no table": (pack({"t": 7}, DATA), "nothing else"),
}
NAMES = [
    "",
    "../../etc/passwd",
    "a/../b",
    "a\0b",
    "a b",
    "a\nb",
    ".",
    "a..b",
    "a.",
    "ä",
    "а",
    "%2e%2e",
    "C:\\x",
    "x" * 600,
]


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED)
def test_malformed_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(errors.RefusedArtifact) as refused:
        read_safetensors_header(tmp_path / "f.safetensors")
    assert says in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_unsafe_tensor_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_bytes(pack({name: GOOD}, DATA))
    with pytest.raises(errors.RefusedArtifact, match="tensor name"):
        read_safetensors_header(tmp_path / "f")


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0x8B1F])
def test_header_whose_length_looks_like_a_pickle_or_gzip_is_read(tmp_path: Path, length: int) -> None:
    text = pack({"t": GOOD}, b"")[8:]
    (tmp_path / "f").write_bytes(raw(text.ljust(length), DATA))
    assert list(read_safetensors_header(tmp_path / "f").tensors) == ["t"]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    entries = {"ok": GOOD, "../x": GOOD, "a": tensor("F32", [-1], 0, 8), "b": tensor("NO", [1], 0, 8)}
    (tmp_path / "f").write_bytes(pack(entries, DATA))
    with pytest.raises(errors.RefusedArtifact) as refused:
        read_safetensors_header(tmp_path / "f")
    assert len(refused.value.problems) == 3


def test_thousand_problems_are_shortened(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(pack({f"t{n}": 0 for n in range(1000)}, b""))
    with pytest.raises(errors.RefusedArtifact, match="980 more"):
        read_safetensors_header(tmp_path / "f")


@pytest.mark.parametrize("kind", ["pipe", "folder", "missing"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    {"pipe": os.mkfifo, "folder": os.mkdir, "missing": lambda _: None}[kind](path)
    with pytest.raises(errors.RefusedArtifact):
        read_safetensors_header(path)


SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
FILES = st.dictionaries(
    st.from_regex(r"[a-z_0-9]{1,8}(\.[a-z]{1,5}){0,3}", fullmatch=True),
    st.tuples(st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int64", "bool"]), SHAPES),
    min_size=1,
    max_size=8,
)
TEXTS = st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=fuzzing.examples(60))
@given(content=FILES, metadata=TEXTS)
def test_file_of_the_safetensors_library_is_read_and_rewritten_alike(
    tmp_path: Path, content: dict[str, Any], metadata: dict[str, str]
) -> None:
    tensors = {name: np.ones(shape, dtype) for name, (dtype, shape) in content.items()}
    written = safetensors.numpy.save(tensors, metadata or None)
    (tmp_path / "f").write_bytes(written)
    header = read_safetensors_header(tmp_path / "f")
    assert header.metadata == metadata
    assert {name: (info.shape, info.end - info.start) for name, info in header.tensors.items()} == {
        name: (array.shape, array.nbytes) for name, array in tensors.items()
    }
    for name, info in header.tensors.items():
        assert written[info.start : info.end] == tensors[name].tobytes()
    head, order = write_safetensors_header(header.tensors, header.metadata)
    assert head + b"".join(tensors[name].tobytes() for name in order) == written


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=fuzzing.examples(150)
)
@given(data=st.data())
def test_file_with_changed_bytes_is_read_rightly_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Accepted tensors lie inside the file, do not overlap, and cover it."""
    good = bytearray(arrays({"a.b": np.ones((2, 3), np.float32), "c": np.ones(5, np.float16)}, {"format": "pt"}))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "f").write_bytes(good[: data.draw(st.integers(0, len(good)))])
    _read_or_refuse(tmp_path / "f")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=fuzzing.examples(100)
)
@given(text=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
@example(text={"__metadata__": None})
@example(text={"t": {"dtype": None, "shape": None, "data_offsets": None}})
@example(text={"t": {"dtype": [], "shape": {}, "data_offsets": [[], {}]}})
def test_any_json_as_a_header_is_read_rightly_or_refused(tmp_path: Path, text: Any) -> None:
    (tmp_path / "f").write_bytes(pack(text, b"") if isinstance(text, dict) else raw(repr(text)))
    _read_or_refuse(tmp_path / "f")


def _read_or_refuse(path: Path) -> None:
    try:
        header = read_safetensors_header(path)
    except errors.RefusedArtifact:
        return
    content = path.read_bytes()
    position = 8 + struct.unpack("<Q", content[:8])[0]
    assert header.tensors
    for info in header.tensors.values():
        assert isinstance(info, TensorInfo)
        assert info.start == position
        position = info.end
    assert position == len(content) == header.size
