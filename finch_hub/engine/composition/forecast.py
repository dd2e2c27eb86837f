"""What compositions would keep of their parents, told from the modules' outputs and one that was measured."""

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
class Answer:
    """What an update answers to a parent's own inputs, along the parent's answer and across it; sums over the modules.

    Attributes:
        common: ``Σ ⟨ΔW X_t, ΔW_t X_t⟩ / Σ ‖ΔW_t X_t‖²``.
        energy: ``Σ ‖ΔW X_t‖² / Σ ‖ΔW_t X_t‖²``.

    """

    common: float
    energy: float

    def kept(self, scale: float, harm: float) -> float:
        """Return the retention that is forecast for ``scale ΔW``.

        Along the parent's answer a the loss is taken for the parabola that is lowest at the parent itself, ``2a - a²``;
        across it every unit of energy costs `harm`, which is not 1: the loss bends less there than where it was
        trained.
        """
        along = scale * self.common
        across = max(0.0, scale**2 * self.energy - along**2)
        return 2 * along - along**2 - harm * across

    def harm(self, kept: float) -> float:
        """Return the `harm` with which the forecast at scale 1 is what was measured there, 0 at the least."""
        across = self.energy - self.common**2
        return max(0.0, self.kept(1.0, 0.0) - kept) / across if across > 0 else 0.0


def answers(
    core: CoreSpace, merged: Mapping[str, Tensor], moments: Sequence[Moments | None]
) -> tuple[Answer | None, ...]:
    """Return what merged matrices M [p, q] answer to every parent; None for one without rows, or that does nothing."""
    found: list[Answer | None] = []
    for t, of_parent in enumerate(moments):
        own = common = energy = 0.0
        for module, K in (of_parent or {}).items():
            space = core.modules[module]
            answered = merged[module] @ K
            own += float((space.cores[t] @ K * space.cores[t]).sum())
            common += float((answered * space.cores[t]).sum())
            energy += float((answered * merged[module]).sum())
        found.append(Answer(common=common / own, energy=energy / own) if own > 0 else None)
    return tuple(found)


def harms(plain: Sequence[Answer | None], kept: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return every parent's `harm` from what a composition at scale 1 kept of it; None where nothing is known."""
    return tuple(
        None if answer is None or share is None else answer.harm(share)
        for answer, share in zip(plain, kept, strict=True)
    )


def best(strategy: str, parents: Sequence[Answer | None], harm: Sequence[float | None]) -> Forecast | None:
    """Return the forecast at the scale that serves the worst parent best; None where nothing is known of any."""

    def kept(scale: float) -> tuple[float | None, ...]:
        return tuple(
            None if answer is None or cost is None else answer.kept(scale, cost)
            for answer, cost in zip(parents, harm, strict=True)
        )

    if not any(share is not None for share in kept(1.0)):
        return None
    scale = max(_SCALES, key=lambda c: min(share for share in kept(c) if share is not None))
    return Forecast(strategy=strategy, scale=scale, kept=kept(scale))
