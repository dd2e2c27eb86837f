"""Machine and library versions that the bytes of a trained adapter depend on."""

from __future__ import annotations

import peft
import torch
import transformers

from finch_hub.engine.bases.base import Base
from finch_hub.engine.machine import processor


def describe(base: Base | None = None) -> dict[str, str | int]:
    """Return processor, instruction set, threads and versions, and with a base its device and dtype."""
    description: dict[str, str | int] = {
        "processor": processor.find_model(),  # libraries choose kernels by the model, not only by the instruction set
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
