"""What the bytes of a trained adapter depend on beside specification, data and base."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import psutil
import torch
import transformers

from finch_hub.engine.bases.loading import Base


def describe(base: Base | None = None) -> dict[str, Any]:
    """Return processor, instruction set, threads and versions, with a base its device and dtype too, for lineage."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    if base is not None:
        device = base.device
        found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        found["dtype"] = str(base.dtype).removeprefix("torch.")
    return found


def digest(description: Mapping[str, Any]) -> str:
    """Return the hash of what :func:`describe` returned, perhaps with more."""
    return hashlib.sha256(json.dumps(dict(description), sort_keys=True).encode()).hexdigest()


def _processor() -> str:
    """Return the processor's model: libraries choose their kernels by it, within one instruction set too."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def physical_cores() -> int:
    """Count the physical cores that this process may use; hyper-threads only share a core's arithmetic units."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
