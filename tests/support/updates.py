"""Random low-rank updates, and dense arithmetic in numpy to hold the core space against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from finch_hub.engine.composition.core_space import CoreSpace
    from finch_hub.engine.composition.factors import Adapter, Factors

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
) -> Adapter:
    """Return an adapter with normally distributed factors on these modules (None: all)."""
    import torch

    from finch_hub.engine.composition.factors import Adapter, Factors

    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Factors] = {}
    for module, (out, inside) in shapes.items():
        B = torch.randn(out, rank, generator=generator) * scale
        A = torch.randn(rank, inside, generator=generator)
        if modules is None or module in modules:
            made[module] = Factors(B=B, A=A)
    return Adapter.of(name, made)


def dense(update: Factors) -> Dense:
    """Return ``B @ A`` in float64."""
    return update.B.double().numpy() @ update.A.double().numpy()


def dense_sum(parents: Sequence[Adapter], weights: Sequence[float], module: str) -> Dense:
    """Return ``Σ w_t B_t A_t`` over the parents that have the module."""
    return sum(  # type: ignore[return-value]
        weight * dense(parent.factors[module])
        for parent, weight in zip(parents, weights, strict=True)
        if module in parent.factors
    )


def lifted(core: CoreSpace, module: str, M: object) -> Dense:
    """Return ``U M Vᵀ`` of one module in float64."""
    import torch

    space = core.modules[module]
    return (space.left.double() @ torch.as_tensor(M).double() @ space.right.double().mT).numpy()


def relative(first: Dense, second: Dense) -> float:
    """Return ``‖first - second‖ / ‖second‖`` (or ‖first‖, where the second is zero)."""
    return float(np.linalg.norm(first - second) / (np.linalg.norm(second) or 1.0))
