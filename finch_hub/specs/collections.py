"""Collection of what nobody refers to: what was removed, and how much that freed."""

from __future__ import annotations

from finch_hub.specs.value import Value


class Collected(Value):
    """Things of one kind that were removed.

    Attributes:
        what: kind, in plural.
        bytes: bytes that this freed. The parts of unfinished uploads have an unknown size, and count as 0.
    """

    what: str
    count: int
    bytes: int


class CollectionReport(Value):
    """What a collection removed, or would remove.

    Attributes:
        is_dry_run: whether nothing was removed.
        unused_days: age in days from which on unused things are removed.
        collected: what was removed, by kind.
        bytes: bytes that this freed, in the store and in the home of this machine.
    """

    is_dry_run: bool
    unused_days: float
    collected: tuple[Collected, ...] = ()
    bytes: int = 0
