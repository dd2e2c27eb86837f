"""Where two adapters differ: field by field, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.specs.reports import Change, TensorDifference


def compare(original: Path, reproduced: Path) -> tuple[tuple[Change, ...], tuple[TensorDifference, ...], int]:
    """Compare two folders in PEFT's format.

    Returns:
        The fields of the configuration that differ; the tensors that do, the most different first; and how many
        tensors there are in either.

    """
    fields = Change.between(*(json.loads((folder / CONFIG).read_bytes()) for folder in (original, reproduced)))
    before, after = (load_file(folder / WEIGHTS) for folder in (original, reproduced))
    names = sorted(before.keys() | after.keys())
    found = [difference for name in names if (difference := _difference(name, before.get(name), after.get(name)))]
    found.sort(key=lambda one: float("inf") if one.relative is None else one.relative, reverse=True)
    return fields, tuple(found), len(names)


def _difference(name: str, original: Tensor | None, reproduced: Tensor | None) -> TensorDifference | None:
    if original is None or reproduced is None:
        return TensorDifference(
            name=name, what=f"is only in the {'original' if reproduced is None else 'reproduction'}"
        )
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
        # Against nothing every difference is whole: B begins at zero, and a module may have learnt nothing.
        relative=float(torch.linalg.vector_norm(delta)) / size if size else 1.0,
        largest=float(delta.abs().max()),
    )
