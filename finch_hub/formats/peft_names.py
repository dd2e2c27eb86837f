"""Names in PEFT's format: files, tensors and metadata."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG_KEY = "adapter_config"
"""Metadata key for the config of an adapter in a single file."""
PREFIX = "base_model.model."
BASE_LAYER = ".base_layer."
"""Part of the names of the base's own tensors in a module that PEFT adapts."""

Part = Literal["A", "B", "bias", "embedding_A", "embedding_B", "magnitude"]
SUFFIXES: MappingProxyType[Part, str] = MappingProxyType(
    {
        "A": ".lora_A.weight",
        "B": ".lora_B.weight",
        "bias": ".lora_B.bias",
        "embedding_A": ".lora_embedding_A",
        "embedding_B": ".lora_embedding_B",
        "magnitude": ".lora_magnitude_vector",
    }
)


# Some versions of PEFT write the magnitude as the weight of a module.
_PARTS: dict[str, Part] = {suffix: part for part, suffix in SUFFIXES.items()}
_PARTS[".lora_magnitude_vector.weight"] = "magnitude"


def tensor_name(path: str, part: Part) -> str:
    """Return the tensor's name in the file for one part of the module at `path`."""
    return f"{PREFIX}{path}{SUFFIXES[part]}"


def split_name(name: str) -> tuple[str, Part | None]:
    """Split a tensor's name into a module's path and its part.

    The part is None if the tensor is not one of LoRA's. The path is then the name without the prefix.
    """
    inner = name.removeprefix(PREFIX)
    for suffix, part in _PARTS.items():
        if inner.endswith(suffix):
            return inner.removesuffix(suffix), part
    return inner, None
