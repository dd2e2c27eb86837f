"""Model and instructions of the processor, as it describes itself."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Instructions for bfloat16 products on x86 and on Arm, by the names that Linux gives them.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "svebf16"})
# Variables by which users limit torch and oneDNN to older instructions, and their values that exclude bfloat16.
INSTRUCTION_LIMITS = {
    "ATEN_CPU_CAPABILITY": ("default", "avx2"),
    "ONEDNN_MAX_CPU_ISA": ("sse41", "avx", "avx2", "avx2_vnni", "avx512_core", "avx512_core_vnni"),
}


def find_model() -> str:
    """Return the processor's model, or its architecture if it does not tell its model."""
    return _read_field("model name") or platform.processor() or platform.machine()


def has_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16 products, and libraries may use them."""
    if any(os.environ.get(name, "").lower() in values for name, values in INSTRUCTION_LIMITS.items()):
        return False
    if platform.system() == "Darwin":
        ask = ["/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_BF16"]  # older systems do not know the name
        return subprocess.run(ask, capture_output=True, check=False).stdout.strip() == b"1"
    flags = _read_field("flags") or _read_field("Features")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())


@functools.cache
def _read_field(name: str) -> str:
    """Return the first value of a field of `/proc/cpuinfo`, empty if it has none."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for field, _, value in fields if field.strip() == name), "")
