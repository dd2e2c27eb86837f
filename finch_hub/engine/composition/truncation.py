"""Truncation of merged updates to low-rank factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.trial import MergedUpdate
from finch_hub.engine.numerics import concurrency, linalg

Rank = int | Literal["auto"] | None
# Share of the squared norm that rank="auto" keeps.
AUTO_ENERGY = 0.99


def truncate(core: CoreSpace, merged: Mapping[str, MergedUpdate], rank: Rank = None) -> dict[str, Factors]:
    """Return factors of the merged updates, truncated to a rank.

    A matrix M [p, q] is replaced by its best approximation of that rank. The error of a module is the norm of its
    discarded singular values. Factors lose their last columns, so a strategy must sort them by importance.

    The rank None keeps the numerical rank. ``"auto"`` discards singular values below one threshold for all modules, so
    that `AUTO_ENERGY` of the total squared norm stays.

    Raises:
        Incompatible: updates are missing, have another shape than the core, or hold NaN or infinity.
    """
    _check_merged(core, merged)
    factors = {module: update for module, update in merged.items() if isinstance(update, Factors)}
    parts = [block.select(torch.tensor([m not in factors for m in block.modules])) for block in core.blocks]
    spectra = concurrency.map_in_threads(
        lambda block: _decompose(block, merged), [part for part in parts if part.modules]
    )
    norms = {module: update.B.norm(dim=0) * update.A.norm(dim=1) for module, update in factors.items()}
    values = [*norms.values(), *(spectrum.S for spectrum in spectra)]
    threshold = _energy_threshold(values) if rank == "auto" else 0.0
    cut = concurrency.map_in_threads(lambda spectrum: _cut(spectrum, rank, threshold), spectra)
    truncated = {module: update for updates in cut for module, update in updates.items()}
    for module, update in factors.items():
        above = (norms[module] > threshold).nonzero()
        k = rank if isinstance(rank, int) else int(above.max()) + 1 if rank == "auto" and len(above) else None
        truncated[module] = update.leading(k)
    return dict(sorted(truncated.items()))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spectrum:
    """M [n, p, q] of a block, its left singular vectors U and its singular values S."""

    block: Block
    M: Tensor
    U: Tensor
    S: Tensor


def _decompose(block: Block, merged: Mapping[str, MergedUpdate]) -> _Spectrum:
    M = torch.stack([update for update in (merged[m] for m in block.modules) if not isinstance(update, Factors)])
    S, U = linalg.spectrum(M @ M.mT)
    return _Spectrum(block=block, M=M, U=U, S=S)


def _cut(spectrum: _Spectrum, rank: Rank, threshold: float) -> dict[str, Factors]:
    """Return the factors of each module with the kept singular triplets."""
    block, M, S = spectrum.block, spectrum.M, spectrum.S
    kept = (torch.clamp(linalg.TOLERANCE * S[..., :1], min=threshold) < S).sum(-1).clamp(min=1)
    if isinstance(rank, int):
        kept = torch.full_like(kept, min(rank, *M.shape[-2:]))
    most = int(kept.max())
    # Uᵀ M is S Vᵀ, and B A = U Uᵀ M is exact even for tiny singular values.
    root, U = S[:, :most].sqrt().unsqueeze(-2), spectrum.U[..., :most]
    B = block.outputs @ (U * root)
    A = (block.inputs @ (M.mT @ U * linalg.inverse(root))).mT
    return {
        module: Factors(B=b[:, :k], A=a[:k]) for module, b, a, k in zip(block.modules, B, A, kept.tolist(), strict=True)
    }


def _energy_threshold(spectra: Sequence[Tensor]) -> float:
    """Return the singular value below which all modules together hold at most 1 - AUTO_ENERGY of the energy."""
    values = torch.cat([S.flatten() for S in spectra]).sort().values
    energy = values.square().cumsum(0)
    cut = int((energy <= (1 - AUTO_ENERGY) * energy[-1]).sum())
    return float(values[cut - 1]) if cut else 0.0


def _check_merged(core: CoreSpace, merged: Mapping[str, MergedUpdate]) -> None:
    problems = [
        errors.Problem(where=module, what=f"the strategy returned {what}")
        for block in core.blocks
        for module in block.modules
        if (what := _find_fault(merged.get(module), block))
    ]
    if problems:
        raise errors.Incompatible(problems, subject="composition")


def _find_fault(update: object, block: Block) -> str | None:
    """Say how a strategy's update of a module is invalid; a plugin can return any object."""
    if update is None:
        return "nothing"
    if isinstance(update, Factors):
        shape = block.outputs.stacked.shape[1], block.inputs.stacked.shape[1]
        if (update.B.shape[0], update.A.shape[1]) != shape or update.B.shape[1] != update.A.shape[0]:
            return "factors of another shape"
        return None if update.is_finite else "NaN or infinity"
    if not isinstance(update, Tensor):
        return f"{type(update).__name__}, not a matrix or factors"
    if update.shape != block.cores.shape[-2:]:
        return f"shape {list(update.shape)}, not {list(block.cores.shape[-2:])}"
    if update.dtype != block.cores.dtype:
        return f"{update.dtype}, not {block.cores.dtype}"
    return None if bool(update.isfinite().all()) else "NaN or infinity"
