"""Parameters of the built-in resolvers; apart from the kernels, so that checking them loads no torch."""

from __future__ import annotations

import re
from typing import Literal

import pydantic

from finch_hub.specs.value import Value

Sides = Literal["left", "right", "both"]


class KeepParameters(Value):
    """Leaving everything as it is takes none."""


class ResolverParameters(Value):
    """What every resolver that changes something can be told.

    Attributes:
        modules: regular expressions; only modules whose path matches one of them (anywhere) are resolved. Empty means
            all.

    """

    modules: tuple[str, ...] = ()

    @pydantic.field_validator("modules")
    @classmethod
    def _are_expressions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return value


class PriorityParameters(ResolverParameters):
    """Who yields to whom.

    Attributes:
        order: names of the parents, the one that yields to nobody first; those not named follow in the order they
            were given in.
        sides: what of the later parents must be orthogonal to the earlier ones: their outputs (left), their inputs
            (right), or both. Parents that began from one A share their inputs' side, so there right leaves little.

    """

    order: tuple[str, ...] = ()
    sides: Sides = "left"


class DropParameters(ResolverParameters):
    """Which entries with disputed signs are zeroed.

    Attributes:
        losers: zero only the values against the sign that has more mass; otherwise the winners' as well.

    """

    losers: bool = True


class CalibrateParameters(ResolverParameters):
    """Damping output directions that several parents share (Pico, arXiv 2604.16826) takes nothing else."""


class OrthogonalizeParameters(ResolverParameters):
    """What is made mutually orthogonal.

    Attributes:
        sides: the outputs' singular vectors (left), the inputs' (right), or both.

    """

    sides: Sides = "left"


class RefuseParameters(ResolverParameters):
    """When composing is to be refused.

    Attributes:
        measure: of the conflict report; judged is each pair's figure over all modules, or the worst module's where
            `each_module` is set.
        threshold: above it, nothing is composed.
        each_module: one module above the threshold is enough.

    """

    measure: Literal["output_overlap", "input_overlap", "sign_conflict"] = "sign_conflict"
    threshold: float = pydantic.Field(default=0.5, ge=0, le=1)
    each_module: bool = False
