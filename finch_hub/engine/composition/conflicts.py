"""Conflicts between parents, measured from their weights."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import concurrency, linalg
from finch_hub.specs.reports import ConflictReport, HiddenShift, PairConflict

MEASURES = ("output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio")

# Limits beyond which the advice mentions a pair. They are rules of thumb; retention is the measure.
_MAX_SHIFT = 1.0
_MIN_COSINE = -0.3
_MIN_NORM_RATIO = 0.3
_MAX_SHARED_ENERGY = 0.8
_MAX_DIFFERENCE = 0.01
"""Norm of the difference of two updates, relative to the larger one, that rounding can cause."""


def diagnose(
    core: CoreSpace,
    interference: Mapping[tuple[str, str, str], float] | None = None,
    shifts: Sequence[HiddenShift] = (),
) -> ConflictReport:
    """Measure the conflicts of a core space by module and by pair, and give advice.

    `interference` and `shifts` come from `finch_hub.engine.composition.interference`, if they were measured.
    """
    modules = tuple(_add_interference(conflict, interference or {}) for conflict in measure_modules(core))
    pairs = summarize_pairs(core, modules)
    shared = measure_shared_direction(core)
    advice, reasons = _advise(pairs, find_copies(core), shifts, shared)
    return ConflictReport(
        parents=core.parents,
        modules=modules,
        pairs=pairs,
        hidden_shifts=tuple(shifts),
        shared_direction=shared,
        advice=advice,
        reasons=reasons,
    )


def _add_interference(conflict: PairConflict, interference: Mapping[tuple[str, str, str], float]) -> PairConflict:
    directions = ((conflict.first, conflict.second), (conflict.second, conflict.first))
    ratios = [interference[conflict.module, i, j] for i, j in directions if (conflict.module, i, j) in interference]
    return conflict.evolve(interference=max(ratios)) if ratios else conflict


def _advise(
    pairs: Sequence[PairConflict], copies: Collection[tuple[str, str]], shifts: Sequence[HiddenShift], shared: float
) -> tuple[str, tuple[str, ...]]:
    """Return advice for the most serious conflict, and the reasons for all."""
    advised: list[tuple[str, str]] = []
    for shift in shifts:
        if shift.shift > _MAX_SHIFT:
            why = f"on the inputs of {shift.first}, {shift.second} shifts the hidden states {shift.shift:.1f} times"
            advice = "keep apart and switch, or compose with min_retention set"
            advised.append((advice, f"{why} as far as {shift.first} does"))
    for pair in pairs:
        names = f"{pair.first} and {pair.second}"
        if (pair.first, pair.second) in copies:
            advised.append(("leave one out", f"{names} are nearly equal in each module that both change"))
        if pair.cosine < _MIN_COSINE:
            why = f"{names} change the modules in opposite directions: the cosine is {pair.cosine:.2f}"
            advised.append(("resolve with priority, or keep apart", why))
        if pair.norm_ratio < _MIN_NORM_RATIO:
            advised.append(("reweight", f"the norms of {names} differ: the ratio is {pair.norm_ratio:.2f}"))
    if shared > _MAX_SHARED_ENERGY and len({name for pair in pairs for name in (pair.first, pair.second)}) > 1:
        why = f"one direction of a module holds {shared:.2f} of the energy of all parents"
        advised.append(("resolve with calibrate", why))
    if not advised:
        limits = (
            f"no cosine is below {_MIN_COSINE}, no norm ratio is below {_MIN_NORM_RATIO}",
            f"no shift is above {_MAX_SHIFT}, no direction holds more than {_MAX_SHARED_ENERGY} of the energy",
        )
        return "compose", (", ".join(limits),)
    return advised[0][0], tuple(reason for _, reason in advised)


def measure_modules(core: CoreSpace) -> tuple[PairConflict, ...]:
    """Measure every pair of parents in every module that both adapt; see `PairConflict` for the formulas."""
    measured = concurrency.map_in_threads(lambda block: list(_measure_block(block, core.parents)), core.blocks)
    pairs = [pair for block_pairs in measured for pair in block_pairs]
    return tuple(sorted(pairs, key=lambda pair: (pair.module, pair.first, pair.second)))


def summarize_pairs(core: CoreSpace, modules: Sequence[PairConflict]) -> tuple[PairConflict, ...]:
    """Average the conflicts of each pair over the modules, weighted by ``‖ΔW_i‖ ‖ΔW_j‖``.

    Pairs without a common module have no conflict and are omitted.
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
    summaries: list[PairConflict] = []
    for (first, second), conflicts in sorted(pairs.items()):
        weights = [norms[c.module, first] * norms[c.module, second] for c in conflicts]
        total = sum(weights) or 1.0
        means = {
            measure: sum(w * getattr(c, measure) for w, c in zip(weights, conflicts, strict=True)) / total
            for measure in MEASURES
        }
        known = [(w, c.interference) for w, c in zip(weights, conflicts, strict=True) if c.interference is not None]
        interference = sum(w * x for w, x in known) / (sum(w for w, _ in known) or 1.0) if known else None
        summaries.append(PairConflict(module="", first=first, second=second, interference=interference, **means))
    return tuple(summaries)


def find_copies(core: CoreSpace) -> frozenset[tuple[str, str]]:
    """Return the pairs of parents whose updates are nearly equal in each module that both adapt."""
    is_copy: dict[tuple[str, str], bool] = {}
    for block in core.blocks:
        for i, j in itertools.combinations(block.present, 2):
            first, second = block.cores[i], block.cores[j]
            difference, *sizes = (matrix.norm(dim=(-2, -1)) for matrix in (first - second, first, second))
            is_equal = bool((difference <= _MAX_DIFFERENCE * torch.maximum(*sizes)).all())
            pair = min(core.parents[i], core.parents[j]), max(core.parents[i], core.parents[j])
            is_copy[pair] = is_copy.get(pair, True) and is_equal
    return frozenset(pair for pair, is_equal in is_copy.items() if is_equal)


def measure_shared_direction(core: CoreSpace) -> float:
    """Return the largest energy share of one output direction, over modules that several parents adapt (Pico's c)."""
    shares = [0.0]
    for block in core.blocks:
        if len(block.present) > 1:
            energy = block.outputs.values.square()
            shares.append(float((energy[:, 0] / energy.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)).max()))
    return max(shares)


def _measure_block(block: Block, parents: Sequence[str]) -> Iterator[PairConflict]:
    svds = zip(block.present, block.svds(), strict=True)
    for (i, (U_i, S_i, V_i)), (j, (U_j, S_j, V_j)) in itertools.combinations(svds, 2):
        cores = block.cores[i], block.cores[j]
        measured = {
            "output_overlap": _overlap(U_i, S_i, U_j, S_j),
            "input_overlap": _overlap(V_i.mT, S_i, V_j.mT, S_j),
            "cosine": _cosine(*cores),
            "sign_conflict": _sign_conflict(*cores),
            "norm_ratio": _norm_ratio(*cores),
        }
        first, second = sorted((parents[i], parents[j]))
        for n, module in enumerate(block.modules):
            values = {name: float(value[n]) for name, value in measured.items()}
            yield PairConflict(module=module, first=first, second=second, **values)


def _overlap(first: Tensor, first_values: Tensor, second: Tensor, second_values: Tensor) -> Tensor:
    """Return ``‖Q_iᵀ Q_j‖²_F / min(r_i, r_j)`` over singular vectors whose value is not a rounding error."""
    is_real = [values > linalg.TOLERANCE * values[..., :1] for values in (first_values, second_values)]
    products = (first * is_real[0].unsqueeze(-2)).mT @ (second * is_real[1].unsqueeze(-2))
    least = torch.minimum(is_real[0].sum(-1), is_real[1].sum(-1)).clamp(min=1)
    return (products.square().sum((-2, -1)) / least).clamp(0, 1)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    norms = first.norm(dim=(-2, -1)) * second.norm(dim=(-2, -1))
    return ((first * second).sum((-2, -1)) * linalg.inverse(norms)).clamp(-1, 1)


def _sign_conflict(first: Tensor, second: Tensor) -> Tensor:
    """Return ``Σ |m_i m_j|`` over entries of opposite signs, divided by the sum over all entries."""
    products = first * second
    common = products.abs().sum((-2, -1))
    return products.clamp(max=0).abs().sum((-2, -1)) * linalg.inverse(common)


def _norm_ratio(first: Tensor, second: Tensor) -> Tensor:
    norms = torch.stack([first.norm(dim=(-2, -1)), second.norm(dim=(-2, -1))])
    return norms.amin(0) * linalg.inverse(norms.amax(0))
