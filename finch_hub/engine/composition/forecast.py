"""Forecast of the retention of a composition, from module outputs and one measured composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.specs.reports import Forecast

# Second moments ``Vᵀ X Xᵀ V [q, q]`` of module inputs on one parent's rows, by module.
Moments = Mapping[str, Tensor]

_SCALES = tuple(round(0.05 * step, 2) for step in range(1, 41))


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputMatch:
    """Comparison of an update's outputs with a parent's own outputs, on the parent's inputs; sums over the modules.

    Attributes:
        common: ``Σ ⟨ΔW X_t, ΔW_t X_t⟩ / Σ ‖ΔW_t X_t‖²``, with the upper sum over modules that several parents change.
        energy: ``Σ ‖ΔW X_t‖² / Σ ‖ΔW_t X_t‖²``, with the upper sum over the same modules.
        unscaled_common: `common` over the modules that one parent changes, which no scale changes.
        unscaled_energy: `energy` over these modules.
    """

    common: float
    energy: float
    unscaled_common: float = 0.0
    unscaled_energy: float = 0.0

    def forecast_retention(self, scale: float, penalty: float) -> float:
        """Return the forecast retention of ``scale ΔW``.

        Along the parent's outputs, with a share a of them, the loss is assumed to be a parabola with its minimum at
        the parent: the retention is ``2a - a²``. Across them every unit of energy costs `penalty`. It differs from 1,
        because the loss curves less in directions that were not trained.
        """
        along = scale * self.common + self.unscaled_common
        across = max(0.0, scale**2 * self.energy + self.unscaled_energy - along**2)
        return 2 * along - along**2 - penalty * across

    def fit_penalty(self, kept: float) -> float:
        """Return the penalty, at least 0, for which the forecast at scale 1 equals the measured retention `kept`."""
        across = self.energy + self.unscaled_energy - (self.common + self.unscaled_common) ** 2
        return max(0.0, self.forecast_retention(1.0, 0.0) - kept) / across if across > 0 else 0.0


def match_outputs(
    core: CoreSpace, merged: Mapping[str, Tensor], moments: Sequence[Moments | None]
) -> tuple[OutputMatch | None, ...]:
    """Compare merged matrices M [p, q] with each parent; None for a parent without rows or with zero outputs."""
    matches: list[OutputMatch | None] = []
    for t, parent_moments in enumerate(moments):
        own = 0.0
        common, energy = [0.0, 0.0], [0.0, 0.0]
        for module, K in (parent_moments or {}).items():
            space = core.modules[module]
            outputs = merged[module] @ K
            own += float((space.cores[t] @ K * space.cores[t]).sum())
            is_unscaled = len(space.present) == 1
            common[is_unscaled] += float((outputs * space.cores[t]).sum())
            energy[is_unscaled] += float((outputs * merged[module]).sum())
        if own <= 0:
            matches.append(None)
            continue
        scaled_common, unscaled_common = (value / own for value in common)
        scaled_energy, unscaled_energy = (value / own for value in energy)
        matches.append(
            OutputMatch(
                common=scaled_common,
                energy=scaled_energy,
                unscaled_common=unscaled_common,
                unscaled_energy=unscaled_energy,
            )
        )
    return tuple(matches)


def fit_penalties(matches: Sequence[OutputMatch | None], kept: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return each parent's penalty from the measured retention of a composition at scale 1; None if it is unknown."""
    return tuple(
        None if match is None or retention is None else match.fit_penalty(retention)
        for match, retention in zip(matches, kept, strict=True)
    )


def forecast_best_scale(
    strategy: str, matches: Sequence[OutputMatch | None], penalties: Sequence[float | None]
) -> Forecast | None:
    """Return the forecast at the scale with the best worst parent; None if no parent has a forecast."""

    def kept_at(scale: float) -> tuple[float | None, ...]:
        return tuple(
            None if match is None or penalty is None else match.forecast_retention(scale, penalty)
            for match, penalty in zip(matches, penalties, strict=True)
        )

    if not any(kept is not None for kept in kept_at(1.0)):
        return None
    scale = max(_SCALES, key=lambda s: min(kept for kept in kept_at(s) if kept is not None))
    return Forecast(strategy=strategy, scale=scale, kept=kept_at(scale))
