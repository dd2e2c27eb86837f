"""An adapter that the gate admits, and with which its base computes values that are not finite."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from support.models import DEFAULT, save_model

from finch_hub.artifacts.gate import admit_adapter
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.formats.peft_names import WEIGHTS
from finch_hub.specs.lora import LoRAConfig


def make(folder: Path) -> tuple[Base, Path]:
    """Return a base and the folder of the adapter."""
    made = save_model(DEFAULT, folder / "base", dtype="float32")
    weights = load_file(made / "model.safetensors")
    factors = {"gate_proj": 1e-17, "up_proj": 1e-17, "down_proj": 1e33}  # which cancel each other without an adapter
    for name in weights:
        weights[name] *= factors.get(name.split(".")[-2], 1.0)
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    base = load_base(made, dtype="float32", device="cpu", cache=folder)
    adapter = AttachableAdapter(LoRAConfig(rank=4, target_modules=("gate_proj", "up_proj")), base)
    adapter.detach()
    adapter.save(folder / "loud")
    tensors = load_file(folder / "loud" / WEIGHTS)
    save_file({name: tensor.fill_(1.9) for name, tensor in tensors.items()}, folder / "loud" / WEIGHTS)
    admit_adapter(folder / "loud", folder / "admitted")
    return base, folder / "admitted"
