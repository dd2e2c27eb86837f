"""What a composition would keep of its parents, told from the modules' outputs before anything is composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.specs.reports import Forecast

# Of one parent: second moments ``Vᵀ X Xᵀ V [q, q]`` of the inputs that each module is given on the parent's rows.
Moments = Mapping[str, Tensor]

_SCALES = tuple(round(0.05 * step, 2) for step in range(1, 41))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """How well ``c ΔW`` answers a parent's own inputs, by the scale c.

    That is ``1 - Σ ‖(c ΔW - ΔW_t) X_t‖² / Σ ‖ΔW_t X_t‖²`` with sums over the modules: 1 where it answers as the parent
    does, 0 where it is as far from that as the bare base.

    Attributes:
        common: ``Σ ⟨ΔW X_t, ΔW_t X_t⟩ / Σ ‖ΔW_t X_t‖²``.
        energy: ``Σ ‖ΔW X_t‖² / Σ ‖ΔW_t X_t‖²``.

    """

    common: float
    energy: float

    def at(self, scale: float) -> float:
        """Return the fidelity at a scale."""
        return 2 * scale * self.common - scale**2 * self.energy


def fidelities(
    core: CoreSpace, merged: Mapping[str, Tensor], moments: Sequence[Moments | None]
) -> tuple[Fidelity | None, ...]:
    """Return every parent's fidelity of merged matrices M [p, q]; None for one without rows, or that does nothing."""
    found: list[Fidelity | None] = []
    for t, of_parent in enumerate(moments):
        own = common = energy = 0.0
        for module, K in (of_parent or {}).items():
            space = core.modules[module]
            answered = merged[module] @ K
            own += float((space.cores[t] @ K * space.cores[t]).sum())
            common += float((answered * space.cores[t]).sum())
            energy += float((answered * merged[module]).sum())
        found.append(Fidelity(common=common / own, energy=energy / own) if own > 0 else None)
    return tuple(found)


def best(strategy: str, parents: Sequence[Fidelity | None]) -> Forecast | None:
    """Return the forecast at the scale that serves the worst parent best; None where no parent has rows."""
    known = [fidelity for fidelity in parents if fidelity is not None]
    if not known:
        return None
    scale = max(_SCALES, key=lambda c: min(fidelity.at(c) for fidelity in known))
    kept = tuple(None if fidelity is None else fidelity.at(scale) for fidelity in parents)
    return Forecast(strategy=strategy, scale=scale, kept=kept)
