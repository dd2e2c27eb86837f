"""Retention: the share of each parent's gain that a composition keeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.reports import Retention, TokenMetrics

_MORE_WEIGHT = 1.5  # factor of the weight of a parent that keeps too little

Metrics = Sequence[TokenMetrics | None]


def has_gained(base: TokenMetrics, own: TokenMetrics) -> bool:
    """Tell whether a parent beats the base by more than two paired standard errors over its examples."""
    differences = [b - o for b, o in zip(base.example_losses, own.example_losses, strict=True)]
    if len(differences) < 2:
        return base.loss > own.loss
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return base.loss > own.loss and statistics.fmean(differences) > 2 * error


def compute(base: TokenMetrics | None, own: TokenMetrics | None, composed: TokenMetrics | None) -> float | None:
    """Return ``(base - composed) / (base - own)``; None if the parent gained nothing or has no rows."""
    if base is None or own is None or composed is None or not has_gained(base, own):
        return None
    return (base.loss - composed.loss) / (base.loss - own.loss)


def make_line(
    parent: str,
    *,
    base: TokenMetrics | None,
    own: TokenMetrics | None,
    composed: TokenMetrics | None,
    linear: TokenMetrics | None = None,
) -> Retention:
    """Return one parent's line of the report."""
    if base is None or own is None or composed is None:
        return Retention(parent=parent, status="unmeasured")
    kept = compute(base, own, composed)
    return Retention(
        parent=parent,
        status="undefined" if kept is None else "measured",
        base=base.loss,
        own=own.loss,
        composed=composed.loss,
        linear=None if linear is None else linear.loss,
        retention=kept,
        examples=base.examples,
    )


def compute_worst(base: Metrics, own: Metrics, composed: Metrics) -> float | None:
    """Return the smallest retention over the parents that gained; None if there is no such parent."""
    kept = [compute(b, o, c) for b, o, c in zip(base, own, composed, strict=True)]
    return min((k for k in kept if k is not None), default=None)


def find_below(lines: Sequence[Retention], min_retention: float | None) -> tuple[str, ...]:
    """Name the parents that keep less than the minimum, became worse than the base, or were not measured."""
    if min_retention is None:
        return ()
    return tuple(
        line.parent
        for line in lines
        if line.status == "unmeasured"
        or (line.retention is not None and line.retention < min_retention)
        or (line.status == "undefined" and line.composed is not None and line.composed > (line.base or 0.0))
    )


def advise_next(lines: Sequence[Retention], spec: ComposeSpec, *, rank: int, max_rank: int) -> tuple[str, ...]:
    """Return what can be done for the parents that keep too little, with the command of another composition.

    Args:
        lines: retention of each parent, in the order of the specification.
        rank: rank of the composition.
        max_rank: sum of the parents' ranks, which no composition can exceed.
    """
    below = [line.parent in find_below([line], spec.min_retention) for line in lines]
    if not any(is_below and line.status != "unmeasured" for is_below, line in zip(below, lines, strict=True)):
        return ()
    options = []
    if not all(below):  # more weight for all of them would change nothing between them
        weights = (
            parent.weight * (_MORE_WEIGHT if is_below else 1)
            for parent, is_below in zip(spec.parents, below, strict=True)
        )
        options.append(f"--weights {','.join(f'{weight:g}' for weight in weights)}")
    if rank < max_rank and spec.rank is not None:
        options.append(f"--rank {max_rank}")
    if not options:
        return ("no weights and no rank help all of them: keep the adapters apart and switch at run time",)
    kept = [f"--{name} {value}" for name, value in (("strategy", spec.strategy), ("resolver", spec.resolver))
            if value not in ("auto", "keep")]  # fmt: skip
    words = [*(parent.adapter for parent in spec.parents), f"--adapter {spec.adapter}", *kept, *options]
    command = f"finch-hub compose {' '.join(words)} --min-retention {spec.min_retention:g}"
    return (f"to keep more, run `{command}`, or keep the adapters apart and switch at run time",)


def advise(lines: Sequence[Retention], below: Sequence[str], *, is_divided: bool) -> tuple[str, ...]:
    """Return advice for parents below the minimum and for figures that are uncertain."""
    advice: list[str] = []
    for line in lines:
        if line.parent in below:
            if line.status == "unmeasured":
                what = "was not measured, so its retention can be below the minimum"
                advice.append(f"{line.parent} {what} (add validation rows)")
                continue
            what = "is worse than the base" if line.retention is None else f"keeps {line.retention:.2f} of its gain"
            advice.append(f"{line.parent} {what}")
        elif line.status == "undefined":
            advice.append(f"{line.parent} gains less than two standard errors over the base on its rows")
    if not is_divided:
        advice.append("a parent has too few validation rows for a separate search: its retention is too optimistic")
    return tuple(advice)
