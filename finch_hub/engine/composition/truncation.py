"""From one merged matrix a module between the bases of a core space back to factors, cut to a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.numerics import concurrency, linalg

# What a strategy returns for a module: M [p, q] between the bases, or factors of its own.
Update = Tensor | Factors
Rank = int | Literal["auto"] | None
# Share of the squared norm that rank="auto" keeps.
AUTO_ENERGY = 0.99


def lift(core: CoreSpace, merged: Mapping[str, Update], rank: Rank = None) -> dict[str, Factors]:
    """Take one merged M [p, q] a module back to factors, truncated to the best approximation of the rank asked for.

    `rank` None keeps all of M's numerical rank; ``"auto"`` cuts every module's spectrum at one threshold so that
    `AUTO_ENERGY` of the total squared norm stays. The truncation error of a module is the norm of its discarded
    singular values. Factors stay as they are but for the columns beyond the rank: a strategy that makes them puts
    first what matters most.

    Raises:
        Incompatible: modules are missing, or a merged matrix has another shape than the core, NaN or infinity.

    """
    _check_merged(core, merged)
    whole = {module: update for module, update in merged.items() if isinstance(update, Factors)}
    parts = [block.take(torch.tensor([m not in whole for m in block.modules])) for block in core.blocks]
    spectra = concurrency.in_threads(lambda block: _spectrum(block, merged), [part for part in parts if part.modules])
    norms = {module: update.B.norm(dim=0) * update.A.norm(dim=1) for module, update in whole.items()}
    values = [*norms.values(), *(spectrum.S for spectrum in spectra)]
    threshold = _energy_threshold(values) if rank == "auto" else 0.0
    cut = concurrency.in_threads(lambda spectrum: _cut(spectrum, rank, threshold), spectra)
    lifted = {module: update for updates in cut for module, update in updates.items()}
    for module, update in whole.items():
        above = (norms[module] > threshold).nonzero()
        k = rank if isinstance(rank, int) else int(above.max()) + 1 if rank == "auto" and len(above) else None
        lifted[module] = update.leading(k)
    return dict(sorted(lifted.items()))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spectrum:
    """M [n, p, q] of a block, its left singular vectors U and its singular values S."""

    block: Block
    M: Tensor
    U: Tensor
    S: Tensor


def _spectrum(block: Block, merged: Mapping[str, Update]) -> _Spectrum:
    M = torch.stack([update for update in (merged[m] for m in block.modules) if not isinstance(update, Factors)])
    S, U = linalg.spectrum(M @ M.mT)
    return _Spectrum(block=block, M=M, U=U, S=S)


def _cut(whole: _Spectrum, rank: Rank, threshold: float) -> dict[str, Factors]:
    """Return each module's factors with the singular triplets that are kept."""
    block, M, S = whole.block, whole.M, whole.S
    kept = (torch.clamp(linalg.TOLERANCE * S[..., :1], min=threshold) < S).sum(-1).clamp(min=1)
    if isinstance(rank, int):
        kept = torch.full_like(kept, min(rank, *M.shape[-2:]))
    most = int(kept.max())
    # Uᵀ M is S Vᵀ, and B A = U Uᵀ M is exact however small a singular value is.
    root, U = S[:, :most].sqrt().unsqueeze(-2), whole.U[..., :most]
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


def _check_merged(core: CoreSpace, merged: Mapping[str, Update]) -> None:
    problems: list[errors.Problem] = []
    for block in core.blocks:
        for module in block.modules:
            update: object = merged.get(module)  # of a plugin, so it may be anything
            expected = tuple(block.cores.shape[-2:])
            if update is None:
                problems.append(errors.Problem(where=module, what="the strategy returned nothing for it"))
            elif isinstance(update, Factors):
                outer = block.outputs.stacked.shape[1], block.inputs.stacked.shape[1]
                if (update.B.shape[0], update.A.shape[1]) != outer or update.B.shape[1] != update.A.shape[0]:
                    problems.append(errors.Problem(where=module, what="the strategy returned factors of another shape"))
                elif not (update.A.isfinite().all() and update.B.isfinite().all()):
                    problems.append(errors.Problem(where=module, what="the strategy returned NaN or infinity"))
            elif not isinstance(update, Tensor):
                what = f"the strategy returned {type(update).__name__}, not a matrix or factors"
                problems.append(errors.Problem(where=module, what=what))
            elif tuple(update.shape) != expected:
                what = f"the strategy returned shape {list(update.shape)}, not {list(expected)}"
                problems.append(errors.Problem(where=module, what=what))
            elif update.dtype != block.cores.dtype:
                what = f"the strategy returned {update.dtype}, not {block.cores.dtype}"
                problems.append(errors.Problem(where=module, what=what))
            elif not update.isfinite().all():
                problems.append(errors.Problem(where=module, what="the strategy returned NaN or infinity"))
    if problems:
        raise errors.Incompatible(problems, subject="composition")
