"""Headers of GGUF files: what they declare must be in the file."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzzing
from support.gguf_files import save_gguf

from finch_hub import errors
from finch_hub.formats.gguf_header import check_gguf_header


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(fields: bytes = b"", tensors: bytes = b"", counts: tuple[int, int] | None = None, version: int = 3) -> bytes:
    numbers = counts or (1 if tensors else 0, 1 if fields else 0)
    return b"GGUF" + struct.pack("<IQQ", version, *numbers) + fields + tensors


def array(kind: int, count: int) -> bytes:
    return text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, kind, count)


def tensor(*shape: int, offset: int = 0, name: str = "a") -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)


HOSTILE = {
    "no GGUF": (b"PK\x03\x04", "is not a GGUF file"),
    "empty": (b"", "is not a GGUF file"),
    "magic alone": (b"GGUF", "ends within its header"),
    "other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "in big-endian order .convert it"),
    "members of an array of numbers": (header(array(4, 2**40)), "declares more than 4,194,304 members"),
    "members of an array of texts": (header(array(8, 2**22)), "ends within its header"),
    "members of two arrays": (header(array(0, 3) + bytes(3) + array(8, 2**22 - 1), counts=(0, 2)), "more than 4,194"),
    "members of no type": (header(array(77, 1)), "has a field of the unknown type 77"),
    "arrays of arrays": (header(array(9, 1) + struct.pack("<IQ", 9, 1) * 9), "has an array of arrays"),
    "fields": (header(counts=(0, 2**63)), "declares 9,223,372,036,854,775,808 fields, more than 65,536"),
    "tensors": (header(counts=(2**63, 0)), "declares 9,223,372,036,854,775,808 tensors, more than 65,536"),
    "a long name": (header(struct.pack("<Q", 2**40), counts=(0, 1)), "bytes of a text, more than"),
    "a long text": (header(text("a") + struct.pack("<IQ", 8, 2**63)), "bytes of a text, more than"),
    "a large tensor": (header(tensors=tensor(2**40, 2**40)), "declares a tensor beyond its end"),
    "a far tensor": (header(tensors=tensor(1, offset=2**50)), "declares a tensor beyond its end"),
    "many dimensions": (header(tensors=tensor(*[1] * 9)), "declares 9 dimensions of a tensor, more than 4"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_header_that_declares_more_than_the_file_has_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(errors.Incompatible, match=message):
        check_gguf_header(tmp_path / "a.gguf")


def field(name: str, value: str | float, code: str = "I") -> bytes:
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    return text(name) + struct.pack(f"<I{code}", {"I": 4, "H": 2, "f": 6}[code], value)


MODEL = {
    "general.architecture": field("general.architecture", "llama"),
    "llama.block_count": field("llama.block_count", 2),
    "tokenizer.ggml.model": field("tokenizer.ggml.model", "gpt2"),
}
LAYERS = tensor(1, name="blk.1.attn_q.weight") + tensor(1, name="blk.0.attn_q.weight")
OTHERS = {
    "version 1": ({}, LAYERS, 1, "is GGUF of version 1, not 2 or 3 .convert the model"),
    "adapter": ({"general.type": field("general.type", "adapter")}, LAYERS, 3, "is a LoRA adapter, not a base model"),
    "mmproj": ({"general.type": field("general.type", "mmproj")}, LAYERS, 3, "for images or sound, not a language"),
    "vocabulary": ({"general.type": field("general.type", "vocab")}, b"", 3, "has a vocabulary and no weights"),
    "one of two": ({"split.count": field("split.count", 2, "H")}, LAYERS, 3, "one of 2 parts of a model .join"),
    "no tensors": ({}, b"", 3, "has no tensors of layers .take a file with the weights"),
    "no tokenizer": ({"tokenizer.ggml.model": b""}, LAYERS, 3, "has no tokenizer"),
    "no architecture": ({"general.architecture": b""}, LAYERS, 3, "does not name its architecture"),
    "architecture 7": (
        {"general.architecture": field("general.architecture", 7)}, LAYERS, 3, "does not name its architecture",
    ),
    "no layers": ({"llama.block_count": field("llama.block_count", 0)}, LAYERS, 3, "but has tensors of 2"),
    "layers of others": ({"llama.block_count": b""}, LAYERS, 3, "has no number of layers"),
    "many layers": (
        {"llama.block_count": field("llama.block_count", 2**32 - 1)}, LAYERS, 3, "4,294,967,295 layers, more",
    ),
    "layers in words": (
        {"llama.block_count": field("llama.block_count", "2")}, LAYERS, 3, "has no number of layers",
    ),
    **{
        f"alignment {size}": ({"general.alignment": field("general.alignment", size)}, LAYERS, 3, "not a power of two")
        for size in (0, 7, 2**32 - 1, "32")
    },
    "gap": (
        {"llama.block_count": field("llama.block_count", 3)},
        LAYERS + tensor(1, name="blk.3.attn_q.weight"), 3, "but has tensors of 3 with the highest number 3",
    ),
    "far layer": ({}, tensor(1, name="blk.999999999.attn_q.weight"), 3, "of 1 with the highest number 999,999,999"),
    **{
        f"number {value}": ({"x": field("llama.rope.freq_base", value, "f")}, LAYERS, 3, "not a finite number")
        for value in (float("nan"), float("inf"))
    },
    "alignment 0.5": ({"general.alignment": field("general.alignment", 0.5, "f")}, LAYERS, 3, "not a power of two"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "tensors", "version", "message"), OTHERS.values(), ids=OTHERS)
def test_file_that_is_no_whole_language_model_is_refused(
    tmp_path: Path, changes: dict[str, bytes], tensors: bytes, version: int, message: str
) -> None:
    file, fields = tmp_path / "a.gguf", [part for part in {**MODEL, **changes}.values() if part]
    count = tensors.count(b"blk.")
    file.write_bytes(header(b"".join(fields), tensors, counts=(count, len(fields)), version=version) + bytes(64))
    with pytest.raises(errors.Incompatible, match=message):
        check_gguf_header(file)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 64])
def test_whole_language_model_passes(tmp_path: Path, version: int, alignment: int) -> None:
    fields = [*MODEL.values(), field("general.alignment", alignment), field("split.count", 1, "H")]
    content = header(b"".join(fields), LAYERS, counts=(2, len(fields)), version=version)
    (tmp_path / "a.gguf").write_bytes(content + bytes(64))
    check_gguf_header(tmp_path / "a.gguf")


def test_header_of_a_model_passes(tiny_folder: Path, tmp_path: Path) -> None:
    check_gguf_header(save_gguf(tiny_folder, tmp_path / "model.gguf", kind="Q8_0"))


def test_numbers_of_each_type_have_its_size(tmp_path: Path) -> None:
    codes = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    for kind, code in codes.items():
        numbers = text("a") + struct.pack(f"<I{code}", kind, 1) + array(kind, 3) + struct.pack(f"<3{code}", 1, 1, 1)
        content = header(numbers, counts=(0, 2))
        (tmp_path / "whole.gguf").write_bytes(content)
        with pytest.raises(errors.Incompatible, match="has no tensors of layers"):  # all fields were read
            check_gguf_header(tmp_path / "whole.gguf")
        (tmp_path / "cut.gguf").write_bytes(content[:-1])
        with pytest.raises(errors.Incompatible, match="ends within its header"):
            check_gguf_header(tmp_path / "cut.gguf")


@pytest.mark.parametrize("lengths", [[0] * (2**22 - 1), [2**17, 0, 3] * 9, [65_519, 1, 65_530, 9]])
def test_texts_of_an_array_are_skipped_to_their_end(tmp_path: Path, lengths: list[int]) -> None:
    texts = array(8, len(lengths)) + b"".join(struct.pack("<Q", length) + bytes(length) for length in lengths)
    (tmp_path / "a.gguf").write_bytes(header(texts + text("b") + struct.pack("<II", 77, 0), counts=(0, 2)))
    with pytest.raises(errors.Incompatible, match="has a field of the unknown type 77"):
        check_gguf_header(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(header(texts)[:-1])
    with pytest.raises(errors.Incompatible, match="ends within its header"):
        check_gguf_header(tmp_path / "a.gguf")


@given(st.binary(max_size=60), st.data())
@settings(
    max_examples=fuzzing.examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_changed_header_passes_or_is_refused(tmp_path: Path, noise: bytes, data: st.DataObject) -> None:
    content = bytearray(header(array(8, 2) + text("a") + text("b"), tensor(2, 3)) + bytes(64))
    begin = data.draw(st.integers(4, len(content)))
    content[begin : begin + len(noise)] = noise
    (tmp_path / "a.gguf").write_bytes(content)
    with contextlib.suppress(errors.FinchError):
        check_gguf_header(tmp_path / "a.gguf")
