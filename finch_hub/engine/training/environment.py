"""What the bytes of a trained adapter depend on beside specification, data and base."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import peft
import psutil
import torch
import transformers

from finch_hub.engine.bases import Base


def describe(base: Base) -> dict[str, Any]:
    """Return device, instruction set, dtype, threads and versions, for lineage."""
    device = base.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(base.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def digest(description: Mapping[str, Any]) -> str:
    """Return the hash of what :func:`describe` returned, perhaps with more."""
    return hashlib.sha256(json.dumps(dict(description), sort_keys=True).encode()).hexdigest()


def physical_cores() -> int:
    """Count the physical cores that this process may use; hyper-threads only share a core's arithmetic units."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
