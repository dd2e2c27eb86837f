"""What may be composed at all: every refusal that needs no computation, by name and all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.composition import factors
from finch_hub.engine.composition.factors import Adapter
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import ComposeSpec

if TYPE_CHECKING:
    from finch_hub.engine.composition.search import Trial


@dataclass(frozen=True, kw_only=True)
class ParentInput:
    """One parent of a composition.

    Attributes:
        name: what reports call it.
        folder: its PEFT folder.
        weight: its share before the scale.
        validation: examples of its domain that it was not trained on; empty where there are none.
        system: system prompt it was trained with.
        base_fingerprint: of the base it was trained on, where that is known.

    """

    name: str
    folder: Path
    weight: float = 1.0
    validation: Sequence[Example] = ()
    system: str | None = None
    base_fingerprint: str | None = None


def check_parents(parents: Sequence[ParentInput]) -> None:
    """Refuse weights that cannot work, names that stand twice, and parents of different bases.

    Raises:
        InvalidSpec: with all that is wrong about weights and names.
        Incompatible: the parents are of different bases, which are named.

    """
    problems = [
        errors.Problem(where=f"weight of {p.name}", what=f"{p.weight} is not a finite number")
        for p in parents
        if not math.isfinite(p.weight)
    ]
    names = [parent.name for parent in parents]
    problems += [
        errors.Problem(where="parents", what=f"{name} is named twice", fix="give it once, with a larger weight")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if all(parent.weight == 0 for parent in parents):
        what = "all weights are zero, so nothing would be composed" if parents else "there are none"
        problems.append(errors.Problem(where="parents", what=what))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")
    if len({parent.base_fingerprint for parent in parents if parent.base_fingerprint}) > 1:
        raise errors.Incompatible(
            [
                errors.Problem(where=p.name, what=f"was trained on the base {(p.base_fingerprint or 'unknown')[:12]}")
                for p in parents
            ],
            subject="the adapters are of different bases",
        )


def read(parents: Sequence[ParentInput]) -> list[Adapter]:
    """Read all parents.

    Raises:
        Incompatible: with what any of them has that does not add up.
        NotFound: a parent's folder or file is missing.

    """
    adapters: list[Adapter] = []
    problems: list[errors.Problem] = []
    for parent in parents:
        try:
            adapters.append(factors.read(parent.folder, parent.name))
        except errors.Incompatible as error:
            problems += [
                errors.Problem(where=f"{parent.name} {p.where}".strip(), what=p.what, fix=p.fix) for p in error.problems
            ]
    if problems:
        raise errors.Incompatible(problems, subject="these adapters cannot be composed")
    return adapters


def check_rank(adapters: Sequence[Adapter], spec: ComposeSpec, asked: Trial) -> None:
    """Refuse a rank that no composition can have, or that the strategy cannot give.

    Raises:
        InvalidSpec: it is above the sum of the parents' ranks, or the strategy is exact.

    """
    total = sum(adapter.rank for adapter in adapters)
    problems: list[errors.Problem] = []
    if isinstance(spec.rank, int) and spec.rank > total:
        what = f"{spec.rank} is more than the parents' ranks together, {total}"
        problems.append(errors.Problem(where="rank", what=what, fix=f"ask for at most {total}"))
    if spec.rank is not None and asked.exact and len(adapters) > 1:
        what = f"{asked.strategy} is exact and is never truncated"
        problems.append(errors.Problem(where="rank", what=what, fix="leave the rank out, or use linear"))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")
