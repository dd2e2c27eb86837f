"""What composing adapters would meet, found from their weights: overlaps, signs, norms, module by module and pair."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from finch_hub.engine.composition import linalg
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.specs.reports import ConflictReport, PairConflict

MEASURES = ("output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio")


def diagnose(core: CoreSpace) -> ConflictReport:
    """Measure the conflicts of a core space, module by module, summed up by pair."""
    modules = of_modules(core)
    return ConflictReport(
        parents=core.parents,
        modules=modules,
        pairs=of_pairs(core, modules),
        shared_direction=shared_direction(core),
    )


def of_modules(core: CoreSpace) -> tuple[PairConflict, ...]:
    """Measure every pair of parents in every module that both adapt; see `PairConflict` for the formulas."""
    found = [pair for block in core.blocks for pair in _of_block(block, core.parents)]
    return tuple(sorted(found, key=lambda pair: (pair.module, pair.first, pair.second)))


def of_pairs(core: CoreSpace, modules: Sequence[PairConflict]) -> tuple[PairConflict, ...]:
    """Summarise the modules of each pair: means weighted by ``‖ΔW_i‖ ‖ΔW_j‖``, so that large updates count most.

    The cosine is then that of both adapters as whole vectors but for the weighting by module; pairs without a common
    module have no conflict and are left out.
    """
    norms = {
        (module, parent): float(norm)
        for block in core.blocks
        for parent, row in zip(core.parents, block.cores.norm(dim=(-2, -1)), strict=True)
        for module, norm in zip(block.modules, row, strict=True)
    }
    pairs: dict[tuple[str, str], list[PairConflict]] = defaultdict(list)
    for conflict in modules:
        pairs[conflict.first, conflict.second].append(conflict)
    found: list[PairConflict] = []
    for (first, second), conflicts in sorted(pairs.items()):
        weights = [norms[c.module, first] * norms[c.module, second] for c in conflicts]
        total = sum(weights) or 1.0
        means = {
            measure: sum(w * getattr(c, measure) for w, c in zip(weights, conflicts, strict=True)) / total
            for measure in MEASURES
        }
        found.append(PairConflict(module="", first=first, second=second, **means))
    return tuple(found)


def shared_direction(core: CoreSpace) -> float:
    """Return Pico's largest c over all modules that several parents adapt: the energy share of one direction."""
    shares = [0.0]
    for block in core.blocks:
        if len(block.present) > 1:
            energy = block.left_spectrum.square()
            shares.append(float((energy[:, 0] / energy.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)).max()))
    return max(shares)


def _of_block(block: Block, parents: Sequence[str]) -> Iterator[PairConflict]:
    svds = dict(zip(block.present, block.svds(), strict=True))
    for i, j in itertools.combinations(block.present, 2):
        (U_i, S_i, V_i), (U_j, S_j, V_j) = svds[i], svds[j]
        measured = {
            "output_overlap": _overlap(U_i, S_i, U_j, S_j),
            "input_overlap": _overlap(V_i.mT, S_i, V_j.mT, S_j),
            "cosine": _cosine(block.cores[i], block.cores[j]),
            "sign_conflict": _sign_conflict(block.cores[i], block.cores[j]),
            "norm_ratio": _norm_ratio(block.cores[i], block.cores[j]),
        }
        first, second = sorted((parents[i], parents[j]))
        for n, module in enumerate(block.modules):
            values = {name: float(value[n]) for name, value in measured.items()}
            yield PairConflict(module=module, first=first, second=second, **values)


def _overlap(first: Tensor, first_values: Tensor, second: Tensor, second_values: Tensor) -> Tensor:
    """Return ``‖Q_iᵀ Q_j‖²_F / min(r_i, r_j)`` over singular vectors whose value is not rounding."""
    real = [values > linalg.TOLERANCE * values[..., :1] for values in (first_values, second_values)]
    products = (first * real[0].unsqueeze(-2)).mT @ (second * real[1].unsqueeze(-2))
    least = torch.minimum(real[0].sum(-1), real[1].sum(-1)).clamp(min=1)
    return (products.square().sum((-2, -1)) / least).clamp(0, 1)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    norms = first.norm(dim=(-2, -1)) * second.norm(dim=(-2, -1))
    return ((first * second).sum((-2, -1)) * linalg.inverse(norms)).clamp(-1, 1)


def _sign_conflict(first: Tensor, second: Tensor) -> Tensor:
    """Return ``Σ_disputed |m_i m_j| / Σ |m_i m_j|``: the share of the common energy that pulls apart."""
    products = first * second
    common = products.abs().sum((-2, -1))
    return products.clamp(max=0).abs().sum((-2, -1)) * linalg.inverse(common)


def _norm_ratio(first: Tensor, second: Tensor) -> Tensor:
    norms = torch.stack([first.norm(dim=(-2, -1)), second.norm(dim=(-2, -1))])
    return norms.amin(0) * linalg.inverse(norms.amax(0))
