"""How much of each parent's gain a composition keeps: the arithmetic of the retention matrix."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from finch_hub.specs.reports import Retention, TokenMetrics

Metrics = Sequence[TokenMetrics | None]


def gains(base: TokenMetrics, own: TokenMetrics) -> bool:
    """Tell whether a parent beats the base by more than two standard errors over its examples (paired)."""
    differences = [b - o for b, o in zip(base.example_losses, own.example_losses, strict=True)]
    if len(differences) < 2:
        return base.loss > own.loss
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return base.loss > own.loss and statistics.fmean(differences) > 2 * error


def kept(base: TokenMetrics | None, own: TokenMetrics | None, composed: TokenMetrics | None) -> float | None:
    """Return ``(base - composed) / (base - own)``, None where the parent gained nothing or has no rows."""
    if base is None or own is None or composed is None or not gains(base, own):
        return None
    return (base.loss - composed.loss) / (base.loss - own.loss)


def row(
    parent: str,
    *,
    base: TokenMetrics | None,
    own: TokenMetrics | None,
    composed: TokenMetrics | None,
    linear: TokenMetrics | None = None,
) -> Retention:
    """Return one parent's line of the retention matrix."""
    if base is None or own is None or composed is None:
        return Retention(parent=parent, status="unmeasured")
    share = kept(base, own, composed)
    return Retention(
        parent=parent,
        status="undefined" if share is None else "measured",
        base=base.loss,
        own=own.loss,
        composed=composed.loss,
        linear=None if linear is None else linear.loss,
        retention=share,
        examples=base.examples,
    )


def worst(base: Metrics, own: Metrics, composed: Metrics) -> float | None:
    """Return the least share kept over the parents that gained; None where none did or none was measured."""
    shares = [kept(b, o, c) for b, o, c in zip(base, own, composed, strict=True)]
    return min((share for share in shares if share is not None), default=None)
