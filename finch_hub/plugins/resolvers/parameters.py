"""Parameters of the built-in resolvers, without torch so that they are checked fast."""

from __future__ import annotations

import re
from typing import Literal

import pydantic

from finch_hub.specs.value import Value

Sides = Literal["left", "right", "both"]


class ResolverParameters(Value):
    """Parameters of every resolver but `keep`.

    Attributes:
        modules: regular expressions. Only modules whose path matches one of them (anywhere) are resolved. Empty means
            all modules.
    """

    modules: tuple[str, ...] = ()

    @pydantic.field_validator("modules")
    @classmethod
    def _check_expressions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return value


class PriorityParameters(ResolverParameters):
    """Parameters of the projection onto directions that earlier parents do not use.

    Attributes:
        order: names of parents, the highest priority first. Other parents follow in their given order.
        sides: directions of later parents that are made orthogonal to earlier parents: outputs (left), inputs (right),
            or both. Parents with the same initial A have similar inputs, so right removes most of their updates.
    """

    order: tuple[str, ...] = ()
    sides: Sides = "left"


class DropParameters(ResolverParameters):
    """Parameters of the removal of entries whose signs differ between parents.

    Attributes:
        losers: zero only values whose sign has the smaller sum. Otherwise zero all values of such an entry.
    """

    losers: bool = True


class OrthogonalizeParameters(ResolverParameters):
    """Parameters of the orthogonalization of all parents.

    Attributes:
        sides: singular vectors to make orthogonal: of the outputs (left), of the inputs (right), or both.
    """

    sides: Sides = "left"


class RefuseParameters(ResolverParameters):
    """Parameters of the refusal to compose parents in conflict.

    Attributes:
        measure: measure of the conflict report that is checked for each pair.
        threshold: largest allowed value.
        each_module: check each module of a pair, instead of the mean over the modules.
    """

    measure: Literal["output_overlap", "input_overlap", "sign_conflict"] = "sign_conflict"
    threshold: float = pydantic.Field(default=0.5, ge=0, le=1)
    each_module: bool = False
