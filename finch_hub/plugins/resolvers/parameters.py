"""Parameters of the built-in resolvers; apart from the kernels, so that checking them loads no torch."""

from __future__ import annotations

from typing import Literal

import pydantic

from finch_hub.specs.value import Value


class KeepParameters(Value):
    """Leaving everything as it is takes none."""


class PriorityParameters(Value):
    """Who yields to whom.

    Attributes:
        order: names of the parents, the one that yields to nobody first; empty means the order they were given in.

    """

    order: tuple[str, ...] = ()


class DropParameters(Value):
    """Zeroing the entries whose signs are disputed takes none."""


class CalibrateParameters(Value):
    """Damping directions that several parents share (Pico, arXiv 2604.16826) takes none."""


class OrthogonalizeParameters(Value):
    """Making the parents' updates mutually orthogonal takes none."""


class RefuseParameters(Value):
    """When composing is to be refused.

    Attributes:
        measure: of the conflict report, the worst pair and module of which is judged.
        threshold: above it, nothing is composed.

    """

    measure: Literal["output_overlap", "input_overlap", "sign_conflict"] = "sign_conflict"
    threshold: float = pydantic.Field(default=0.5, ge=0, le=1)
