"""Training one adapter, or several at once; torch is loaded by the modules, not here."""

from __future__ import annotations

from typing import Literal

Interruption = Literal["cancel", "hand_back"]


class Interrupted(Exception):
    """Training stopped at a step boundary because it was asked to; `kind` says what for.

    After ``hand_back`` a checkpoint lies in the work directory, from which the next attempt goes on.
    """

    def __init__(self, kind: Interruption) -> None:
        self.kind = kind
        super().__init__(f"training was interrupted ({kind})")
