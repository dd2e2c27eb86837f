"""Requests to stop a training, and the exception that answers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from finch_hub.progress import Advance, Listener

Interruption = Literal["cancel", "hand_back"]
ShouldStop = Callable[[], Interruption | None]


class Interrupted(Exception):
    """Exception that ends a training between two steps, because `kind` was requested.

    After ``hand_back`` the work directory contains a checkpoint, from which the next attempt continues.
    """

    def __init__(self, kind: Interruption) -> None:
        self.kind = kind
        super().__init__(f"training was interrupted ({kind})")


def stop_on_request(tell: Listener, should_stop: ShouldStop) -> Listener:
    """Return a listener for work before the first step, which also ends the work if a stop was requested."""

    def listener(advance: Advance) -> None:
        tell(advance)
        if kind := should_stop():
            raise Interrupted(kind)

    return listener
