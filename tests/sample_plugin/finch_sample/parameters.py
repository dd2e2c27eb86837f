"""Parameter schemas; apart from the kernels, so that checking them loads no torch."""

from __future__ import annotations

from typing import Literal

import pydantic

from finch_hub.specs.value import Value


class LevelParameters(Value):
    """How far norms are brought together: 1 makes them equal, 0 changes nothing."""

    strength: float = pydantic.Field(default=1.0, ge=0, le=1)


class TableParameters(Value):
    """What stands between two columns."""

    separator: Literal[",", ";", "\t"] = ","
