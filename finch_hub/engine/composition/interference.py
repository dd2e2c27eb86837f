"""Interference between parents on real inputs: in module outputs and in the final hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.specs.reports import HiddenShift

# Examples of each parent. They suffice for a norm over thousands of tokens.
_MAX_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Interference:
    """Interference between parents on real inputs.

    X_i are the inputs of a module on the rows of parent i while parent i is active.

    Attributes:
        ratios: ``‖ΔW_j X_i‖_F / ‖ΔW_i X_i‖_F`` by (module, i, j).
        shifts: relative shift of the hidden states that predict i's completions, when j is active beside i.
        moments: ``Vᵀ X_i X_iᵀ V [q, q]`` by module, for each parent i; None for a parent without rows.
    """

    ratios: Mapping[tuple[str, str, str], float]
    shifts: tuple[HiddenShift, ...]
    moments: tuple[Mapping[str, Tensor] | None, ...]


def measure(core: CoreSpace, adapters: Sequence[ParentAdapter], measurement: Measurement) -> Interference:
    """Measure the interference on examples of each parent."""
    ratios: dict[tuple[str, str, str], float] = {}
    shifts: list[HiddenShift] = []
    all_moments: list[Mapping[str, Tensor] | None] = []
    right = {module: space.right for module, space in core.modules.items()}
    for i, rows in enumerate(measurement.rows):
        if rows is None:
            all_moments.append(None)
            continue
        examples = rows.selection[:_MAX_EXAMPLES]
        name = core.parents[i]
        bare = measurement.run_forward(None, examples, parent=name)
        own, moments = measurement.collect_projected_moments(adapters[i].factors, examples, right, parent=name)
        all_moments.append(moments)
        ratios |= _compute_ratios(core, i, moments)
        for j, other in enumerate(adapters):
            if j == i:
                continue
            both = measurement.run_forward(_stack(adapters[i].factors, other.factors), examples, parent=name)
            # The minimum keeps the ratio finite if the parent itself shifts nothing.
            shift = float((both - own).norm() / (own - bare).norm().clamp(min=1e-6 * float(bare.norm())))
            shifts.append(HiddenShift(first=core.parents[i], second=core.parents[j], shift=shift))
    return Interference(ratios=ratios, shifts=tuple(shifts), moments=tuple(all_moments))


def _compute_ratios(core: CoreSpace, i: int, moments: Mapping[str, Tensor]) -> dict[tuple[str, str, str], float]:
    """Return ratios of output norms: ``‖M_j Vᵀ X‖² = tr(M_j K M_jᵀ)`` with the second moments K = Vᵀ X Xᵀ V."""
    ratios = {}
    for module, space in core.modules.items():
        if i not in space.present:
            continue
        energies = [float(((M @ moments[module]) * M).sum().clamp(min=0)) for M in space.cores]
        for j in space.present:
            if j != i and energies[i] > 0:
                ratios[module, core.parents[i], core.parents[j]] = (energies[j] / energies[i]) ** 0.5
    return ratios


def _stack(first: Mapping[str, Factors], second: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return the sum of two updates, as stacked factors."""
    stacked = {**first, **second}
    for path in first.keys() & second.keys():
        a, b = first[path], second[path]
        stacked[path] = Factors(B=torch.cat([a.B, b.B], dim=1), A=torch.cat([a.A, b.A], dim=0))
    return stacked
