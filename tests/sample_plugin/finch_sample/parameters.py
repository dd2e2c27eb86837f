"""Parameter schemas, without torch so that they are checked fast."""

from __future__ import annotations

from typing import Literal

import pydantic

from finch_hub.specs.value import Value


class LevelParameters(Value):
    """Parameters of the resolver level: strength 1 makes norms equal, strength 0 changes nothing."""

    strength: float = pydantic.Field(default=1.0, ge=0, le=1)


class TableParameters(Value):
    """Parameters of the table: the separator between two columns."""

    separator: Literal[",", ";", "\t"] = ","
