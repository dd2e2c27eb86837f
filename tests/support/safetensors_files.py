"""Safetensors and adapter files made by hand, so that tests can make wrong ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Entry = tuple[str, dict[str, Any]]

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q"],
}
PREFIX = "base_model.model."


def raw(header: str | bytes, data: bytes = b"") -> bytes:
    """Put a header, whatever it is, before data."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def pack(entries: Sequence[Entry] | Mapping[str, Any], data: bytes) -> bytes:
    """Write a header with these entries; a list may have a name twice, which no dict can."""
    pairs = list(entries.items()) if isinstance(entries, Mapping) else entries
    return raw("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}", data)


def tensor(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, Any]:
    """Return one header entry."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def arrays(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write arrays as the usual library would."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int8": "I8", "uint8": "U8", "uint16": "BF16"}
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in tensors.items():
        entries[name] = tensor(names[array.dtype.name], array.shape, len(data), len(data) + array.nbytes)
        data += array.tobytes()
    return pack(entries, data)


def factors(module: str = "layers.0.q", *, rank: int = 2, inputs: int = 6, outputs: int = 4) -> dict[str, np.ndarray]:
    """Return the factors of one module, by their names in a file."""
    random = np.random.default_rng(len(module) + rank)
    return {
        f"{PREFIX}{module}.lora_A.weight": random.normal(size=(rank, inputs)).astype(np.float32),
        f"{PREFIX}{module}.lora_B.weight": random.normal(size=(outputs, rank)).astype(np.float32),
    }


def adapter_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write an adapter as PEFT lays it out; a good one unless told otherwise."""
    folder.mkdir(parents=True)
    content = arrays(factors() if tensors is None else tensors, {"format": "pt", **(metadata or {})})
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    return folder
