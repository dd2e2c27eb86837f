"""Comparison of two adapters, field by field and tensor by tensor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.specs.reports import Change, TensorDifference


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterComparison:
    """Fields and tensors that differ, the most different tensor first, and the number of tensors in either adapter."""

    config: tuple[Change, ...]
    tensors: tuple[TensorDifference, ...]
    num_tensors: int


def compare_adapters(original: Path, reproduced: Path) -> AdapterComparison:
    """Compare two folders in PEFT's format."""
    configs = [json.loads((folder / CONFIG).read_bytes()) for folder in (original, reproduced)]
    # Its name is no part of an adapter: the hub writes it into the config when it stores the adapter.
    fields = Change.between(*({**config, "base_model_name_or_path": None} for config in configs))
    before, after = (load_file(folder / WEIGHTS) for folder in (original, reproduced))
    names = sorted(before.keys() | after.keys())
    differences = [found for name in names if (found := _compare(name, before.get(name), after.get(name)))]
    differences.sort(key=lambda found: float("inf") if found.relative is None else found.relative, reverse=True)
    return AdapterComparison(config=fields, tensors=tuple(differences), num_tensors=len(names))


def _compare(name: str, original: Tensor | None, reproduced: Tensor | None) -> TensorDifference | None:
    if original is None or reproduced is None:
        side = "original" if reproduced is None else "reproduction"
        return TensorDifference(name=name, what=f"is only in the {side}")
    if original.shape != reproduced.shape:
        return TensorDifference(name=name, what=f"has shape {[*reproduced.shape]}, not {[*original.shape]}")
    if original.dtype != reproduced.dtype:
        return TensorDifference(name=name, what=f"is {reproduced.dtype}, not {original.dtype}".replace("torch.", ""))
    if torch.equal(original, reproduced):
        return None
    delta = reproduced.double() - original.double()
    size = float(torch.linalg.vector_norm(original.double()))
    return TensorDifference(
        name=name,
        # B starts at zero, and training may not have changed it. Any difference from zero counts as 1.
        relative=float(torch.linalg.vector_norm(delta)) / size if size else 1.0,
        largest=float(delta.abs().max()),
    )
