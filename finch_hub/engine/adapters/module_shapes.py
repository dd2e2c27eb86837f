"""Shapes of a loaded base's linear modules, and the check that an adapter has the same."""

from __future__ import annotations

from peft.tuners.lora import LoraLayer
from torch import nn

from finch_hub import errors
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.base import Base


def linear_modules(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return path and shape (out, in) of every linear module except the language-model head."""
    shapes: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        is_inside_layer = ".base_layer" in path or ".lora_" in path
        if isinstance(module, (nn.Linear, LoraLayer)) and not is_inside_layer and not target_modules.is_embedding(path):
            shapes[path] = (module.out_features, module.in_features)
    return shapes


def check_fit(weights: AdapterWeights, base: Base) -> None:
    """Check that the base has every module of the adapter, in the adapter's shape.

    Raises:
        Incompatible: one problem for each module that is missing or has another shape.
    """
    problems = []
    for path, module in weights.modules.items():
        try:
            target = base.model.get_submodule(path)
        except AttributeError:
            problems.append(errors.Problem(where=path, what="the base has no such module"))
            continue
        shape = [getattr(target, "out_features", None), getattr(target, "in_features", None)]
        adapter_shape = [module.B.shape[0], module.A.shape[1]]
        if shape != adapter_shape:
            what = f"the adapter has shape {adapter_shape}, the base {shape}"
            problems.append(errors.Problem(where=path, what=what))
    if problems:
        raise errors.Incompatible(problems, subject=f"adapter for a base other than {base.name}")
