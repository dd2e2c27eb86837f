"""Checks of a composition that need no computation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from finch_hub import errors
from finch_hub.engine.composition.parents import ParentAdapter, ParentInput
from finch_hub.engine.composition.trial import Trial
from finch_hub.specs.jobs import ComposeSpec


def check_parents(parents: Sequence[ParentInput]) -> None:
    """Refuse invalid weights, duplicate names and parents of different bases.

    Raises:
        InvalidSpec: weights or names are invalid; it names all of them.
        Incompatible: the parents have different bases; it names the bases.
    """
    problems = [
        errors.Problem(where=f"weight of {p.name}", what=f"{p.weight} is not a finite number")
        for p in parents
        if not math.isfinite(p.weight)
    ]
    names = [parent.name for parent in parents]
    problems += [
        errors.Problem(where="parents", what=f"{name} is given twice", fix="give it once, with a larger weight")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if all(parent.weight == 0 for parent in parents):
        what = "all weights are zero" if parents else "there are no parents"
        problems.append(errors.Problem(where="parents", what=what))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")
    if len({parent.base_fingerprint for parent in parents if parent.base_fingerprint}) > 1:
        raise errors.Incompatible(
            [
                errors.Problem(where=p.name, what=f"was trained on the base {(p.base_fingerprint or 'unknown')[:12]}")
                for p in parents
            ],
            subject="the adapters have different bases",
        )


def check_rank(adapters: Sequence[ParentAdapter], spec: ComposeSpec, trial: Trial) -> None:
    """Refuse a rank that the composition cannot have.

    Raises:
        InvalidSpec: the rank exceeds the sum of the parents' ranks, or the strategy is exact.
    """
    total = sum(adapter.rank for adapter in adapters)
    problems: list[errors.Problem] = []
    if isinstance(spec.rank, int) and spec.rank > total:
        what = f"{spec.rank} exceeds {total}, the sum of the parents' ranks"
        problems.append(errors.Problem(where="rank", what=what, fix=f"choose a rank up to {total}"))
    if spec.rank is not None and trial.is_exact and len(adapters) > 1:
        what = f"the strategy {trial.strategy} is exact and cannot be truncated"
        problems.append(errors.Problem(where="rank", what=what, fix="omit the rank, or use linear"))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")
