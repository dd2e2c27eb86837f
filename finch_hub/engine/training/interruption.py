"""Requests to stop a training, and the exception that answers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Interruption = Literal["cancel", "hand_back"]
ShouldStop = Callable[[], Interruption | None]


class Interrupted(Exception):
    """Exception that ends a training between two steps, because `kind` was requested.

    After ``hand_back`` the work directory contains a checkpoint, from which the next attempt continues.
    """

    def __init__(self, kind: Interruption) -> None:
        self.kind = kind
        super().__init__(f"training was interrupted ({kind})")
