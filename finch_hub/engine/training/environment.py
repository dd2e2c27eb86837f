"""Machine and library versions that the bytes of a trained adapter depend on."""

from __future__ import annotations

import platform
from pathlib import Path

import peft
import torch
import transformers

from finch_hub.engine.bases.base import Base


def describe(base: Base | None = None) -> dict[str, str | int]:
    """Return processor, instruction set, threads and versions, and with a base its device and dtype."""
    description: dict[str, str | int] = {
        "processor": _processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    if base is not None:
        device = base.device
        description["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        description["dtype"] = str(base.dtype).removeprefix("torch.")
    return description


def _processor() -> str:
    """Return the processor's model: libraries choose kernels by the model, not only by the instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
