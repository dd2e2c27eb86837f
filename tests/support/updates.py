"""Random low-rank updates, and dense arithmetic in numpy to compare the core space with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from finch_hub.engine.composition.core_space import CoreSpace
    from finch_hub.engine.composition.factors import Factors
    from finch_hub.engine.composition.parents import ParentAdapter

Dense = NDArray[np.float64]

# Module name -> (out, in). Two of one shape make a block of two, the third is alone.
SHAPES = {"layers.0.q": (12, 10), "layers.1.q": (12, 10), "layers.0.v": (6, 10)}


def adapter(
    name: str,
    *,
    seed: int,
    rank: int = 3,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    modules: Sequence[str] | None = None,
    scale: float = 1.0,
) -> ParentAdapter:
    """Return a parent with normally distributed factors on these modules (None: all)."""
    import torch

    from finch_hub.engine.composition.factors import Factors
    from finch_hub.engine.composition.parents import ParentAdapter

    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Factors] = {}
    for module, (out, inside) in shapes.items():
        B = torch.randn(out, rank, generator=generator) * scale
        A = torch.randn(rank, inside, generator=generator)
        if modules is None or module in modules:
            made[module] = Factors(B=B, A=A)
    return ParentAdapter.of(name, made)


def peft_deltas(base: Path, folder: Path) -> dict[str, Dense]:
    """Return what PEFT adds to the weight of each module."""
    import peft
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").double().detach().numpy()
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


def dense(update: Factors) -> Dense:
    """Return ``B @ A`` in float64."""
    return update.B.double().numpy() @ update.A.double().numpy()


def dense_sum(parents: Sequence[ParentAdapter], weights: Sequence[float], module: str) -> Dense:
    """Return ``Σ w_t B_t A_t`` over the parents that have the module."""
    return sum(  # type: ignore[return-value]
        weight * dense(parent.factors[module])
        for parent, weight in zip(parents, weights, strict=True)
        if module in parent.factors
    )


def expand(core: CoreSpace, module: str, M: object) -> Dense:
    """Return ``U M Vᵀ`` of one module in float64."""
    import torch

    space = core.modules[module]
    return (space.left.double() @ torch.as_tensor(M).double() @ space.right.double().mT).numpy()


def relative(first: Dense, second: Dense) -> float:
    """Return ``‖first - second‖ / ‖second‖`` (or ‖first‖, where the second is zero)."""
    return float(np.linalg.norm(first - second) / (np.linalg.norm(second) or 1.0))
