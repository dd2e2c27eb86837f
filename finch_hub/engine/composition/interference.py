"""What adapters do to each other on real inputs: in the outputs of each module, and in the final hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub.engine.composition import activations
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Adapter, Factors
from finch_hub.engine.composition.measurement import Bench
from finch_hub.specs.reports import HiddenShift

# Examples of each parent that are enough for a norm over thousands of tokens.
_PROBES = 8


@dataclass(frozen=True, kw_only=True)
class Interference:
    """What each parent's probes showed; X_i are the inputs that a module is given on i's rows under adapter i.

    Attributes:
        ratios: ``‖ΔW_j X_i‖_F / ‖ΔW_i X_i‖_F`` by (module, i, j).
        shifts: for each pair the relative shift of the hidden states that predict i's completions when j acts beside i.
        moments: of each parent, ``Vᵀ X_i X_iᵀ V [q, q]`` by module; None for one without rows, which is nobody's i.

    """

    ratios: Mapping[tuple[str, str, str], float]
    shifts: tuple[HiddenShift, ...]
    moments: tuple[Mapping[str, Tensor] | None, ...]


def measure(core: CoreSpace, adapters: Sequence[Adapter], bench: Bench) -> Interference:
    """Run each parent's probes through the base."""
    ratios: dict[tuple[str, str, str], float] = {}
    shifts: list[HiddenShift] = []
    seen: list[Mapping[str, Tensor] | None] = []
    right = {module: space.right for module, space in core.modules.items()}
    for i, rows in enumerate(bench.rows):
        if rows is None:
            seen.append(None)
            continue
        probes = rows.selection[:_PROBES]
        bare = activations.forward(bench, None, probes)
        own, moments = activations.projected_moments(bench, adapters[i].factors, probes, right)
        seen.append(moments)
        ratios |= _ratios(core, i, moments)
        for j, other in enumerate(adapters):
            if j == i:
                continue
            both = activations.forward(bench, _sum(adapters[i].factors, other.factors), probes)
            # An adapter that moves nothing itself would make the ratio infinite.
            shift = float((both - own).norm() / (own - bare).norm().clamp(min=1e-6 * float(bare.norm())))
            shifts.append(HiddenShift(first=core.parents[i], second=core.parents[j], shift=shift))
    return Interference(ratios=ratios, shifts=tuple(shifts), moments=tuple(seen))


def _ratios(core: CoreSpace, i: int, moments: Mapping[str, Tensor]) -> dict[tuple[str, str, str], float]:
    """Return the ratios of output norms: ``‖M_j Vᵀ X‖² = tr(M_j K M_jᵀ)`` with the second moments K = Vᵀ X Xᵀ V."""
    found = {}
    for module, space in core.modules.items():
        if not space.present[i]:
            continue
        energies = [float(((M @ moments[module]) * M).sum().clamp(min=0)) for M in space.cores]
        for j, present in enumerate(space.present):
            if present and j != i and energies[i] > 0:
                found[module, core.parents[i], core.parents[j]] = (energies[j] / energies[i]) ** 0.5
    return found


def _sum(first: Mapping[str, Factors], second: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return both updates side by side."""
    joined = {**first, **second}
    for path in first.keys() & second.keys():
        one, other = first[path], second[path]
        joined[path] = Factors(B=torch.cat([one.B, other.B], dim=1), A=torch.cat([one.A, other.A], dim=0))
    return joined
