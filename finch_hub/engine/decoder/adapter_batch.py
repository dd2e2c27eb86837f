"""Batch of examples and the adapter that it goes through."""

from __future__ import annotations

from dataclasses import dataclass

from finch_hub.engine.data.batches import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterBatch:
    """Batch of examples and the adapter that its tokens go through.

    Attributes:
        batch: examples, on the model's device.
        adapter: name of the only active adapter; None activates all enabled adapters.
        seed: seed of the dropout masks; None turns dropout off.

    """

    batch: Batch
    adapter: str | None = None
    seed: int | None = None
