from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub.engine.machine import processor

ZEN_4 = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 avx512f avx512_bf16 sha_ni\n"
SKYLAKE = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve svebf16 i8mm bf16\nCPU implementer\t: 0x41\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Linux system without limits of instructions."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    for name in processor.INSTRUCTION_LIMITS:
        monkeypatch.delenv(name, raising=False)
    processor._read_field.cache_clear()
    yield
    processor._read_field.cache_clear()


def describe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None) -> None:
    """Let the processor describe itself with this text, or not at all."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(processor, "_CPUINFO", file)


@pytest.mark.parametrize(
    ("text", "has_bfloat16"),
    [
        (ZEN_4, True),
        (SKYLAKE, False),
        (SKYLAKE.replace("avx512_vnni", "amx_bf16"), True),
        (SKYLAKE.replace("avx512_vnni", "avx_ne_convert"), True),
        (GRAVITON_3, True),
        (GRAVITON_2, False),
        (None, False),
    ],
)
def test_instructions_are_those_that_the_processor_lists(
    text: str | None, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    describe(monkeypatch, tmp_path, text)
    assert processor.has_bfloat16() is has_bfloat16


@pytest.mark.parametrize(
    ("name", "value", "has_bfloat16"),
    [
        ("ATEN_CPU_CAPABILITY", "default", False),
        ("ATEN_CPU_CAPABILITY", "avx2", False),
        ("ATEN_CPU_CAPABILITY", "avx512", True),
        ("ONEDNN_MAX_CPU_ISA", "SSE41", False),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", True),
    ],
)
def test_limit_of_the_user_excludes_newer_instructions(
    name: str, value: str, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    describe(monkeypatch, tmp_path, ZEN_4)
    monkeypatch.setenv(name, value)
    assert processor.has_bfloat16() is has_bfloat16


def test_model_is_the_processors_or_else_its_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    describe(monkeypatch, tmp_path, ZEN_4)
    assert processor.find_model() == "AMD EPYC 9R14"
    processor._read_field.cache_clear()
    describe(monkeypatch, tmp_path, GRAVITON_3)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor.find_model() == "aarch64"


def test_description_that_is_not_utf8_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    describe(monkeypatch, tmp_path, "")
    (tmp_path / "cpuinfo").write_bytes(b"model name : Zen \xff\nflags : avx512_bf16\n")
    assert processor.has_bfloat16()


@pytest.mark.parametrize(("answer", "has_bfloat16"), [(b"1\n", True), (b"0\n", False), (b"", False)])
def test_macos_is_asked_for_its_instructions(
    answer: bytes, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> Any:
        assert command[-1] == "hw.optional.arm.FEAT_BF16"
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", run)
    assert processor.has_bfloat16() is has_bfloat16
