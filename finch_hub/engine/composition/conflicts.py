"""What composing adapters would meet, found from their weights: overlaps, signs, norms, module by module and pair."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import concurrency, linalg
from finch_hub.specs.reports import ConflictReport, HiddenShift, PairConflict

MEASURES = ("output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio")

# Beyond these a pair is out of the ordinary.
_GRAVE_SHIFT = 1.0
_OPPOSED = -0.3
_UNEQUAL = 0.3
_SHARED = 0.8


def diagnose(
    core: CoreSpace,
    interference: Mapping[tuple[str, str, str], float] | None = None,
    shifts: Sequence[HiddenShift] = (),
) -> ConflictReport:
    """Measure the conflicts of a core space, module by module, summed up by pair, with an advice.

    `interference` and `shifts` come from `finch_hub.engine.composition.interference`, where a base is at hand.
    """
    modules = tuple(_with(conflict, interference or {}) for conflict in of_modules(core))
    pairs = of_pairs(core, modules)
    shared = shared_direction(core)
    advice, reasons = _advice(pairs, shifts, shared)
    return ConflictReport(
        parents=core.parents,
        modules=modules,
        pairs=pairs,
        hidden_shifts=tuple(shifts),
        shared_direction=shared,
        advice=advice,
        reasons=reasons,
    )


def _with(conflict: PairConflict, interference: Mapping[tuple[str, str, str], float]) -> PairConflict:
    both = [
        interference[conflict.module, i, j]
        for i, j in ((conflict.first, conflict.second), (conflict.second, conflict.first))
        if (conflict.module, i, j) in interference
    ]
    return conflict.evolve(interference=max(both)) if both else conflict


def _advice(pairs: Sequence[PairConflict], shifts: Sequence[HiddenShift], shared: float) -> tuple[str, tuple[str, ...]]:
    """Return what to do and why, the gravest first; every threshold is a rule of thumb, retention is the measure."""
    found: list[tuple[str, str]] = []
    for shift in shifts:
        if shift.shift > _GRAVE_SHIFT:
            why = f"on {shift.first}'s inputs {shift.second} moves the hidden states {shift.shift:.1f} times as far"
            found.append(("keep apart and switch, or compose with min_retention set", f"{why} as {shift.first} itself"))
    for pair in pairs:
        names = f"{pair.first} and {pair.second}"
        if pair.cosine < _OPPOSED:
            found.append(
                ("resolve with priority, or keep apart", f"{names} pull against each other: {pair.cosine:.2f}")
            )
        if pair.norm_ratio < _UNEQUAL:
            found.append(("reweight", f"of {names} the smaller has {pair.norm_ratio:.2f} of the larger's norm"))
    if shared > _SHARED and len({name for pair in pairs for name in (pair.first, pair.second)}) > 1:
        found.append(("resolve with calibrate", f"one direction of a module holds {shared:.2f} of all parents' energy"))
    if not found:
        why = f"no cosine is under {_OPPOSED}, no ratio of norms under {_UNEQUAL}, no shift over {_GRAVE_SHIFT}"
        return "merge", (f"{why}, and no direction holds over {_SHARED} of the energy",)
    return found[0][0], tuple(reason for _, reason in found)


def of_modules(core: CoreSpace) -> tuple[PairConflict, ...]:
    """Measure every pair of parents in every module that both adapt; see `PairConflict` for the formulas."""
    measured = concurrency.in_threads(lambda block: list(_of_block(block, core.parents)), core.blocks)
    found = [pair for pairs in measured for pair in pairs]
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
        known = [(w, c.interference) for w, c in zip(weights, conflicts, strict=True) if c.interference is not None]
        interference = sum(w * x for w, x in known) / (sum(w for w, _ in known) or 1.0) if known else None
        found.append(PairConflict(module="", first=first, second=second, interference=interference, **means))
    return tuple(found)


def shared_direction(core: CoreSpace) -> float:
    """Return Pico's largest c over all modules that several parents adapt: the energy share of one direction."""
    shares = [0.0]
    for block in core.blocks:
        if len(block.present) > 1:
            energy = block.outputs.values.square()
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
