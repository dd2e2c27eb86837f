"""The base model that a child keeps from one job to the next."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub.plugins.descriptors import load_target
from finch_hub.specs.jobs import BaseModelSource

if TYPE_CHECKING:
    from finch_hub.engine.bases import Base
    from finch_hub.engine.precision import Dtype


class WarmBases:
    """Holds at most one base: the memory of a second one belongs to the job.

    Attributes:
        key: names the base that is held, by :func:`finch_hub.registry.jobs.base_key`; None without one.

    """

    def __init__(self) -> None:
        self.key: str | None = None
        self._base: Base | None = None
        self._dtype: Dtype | None = None

    def load(self, order: dict[str, Any], *, say: Callable[[str], None], dtype: Dtype = "auto") -> Base:
        """Return the base of an order (see :func:`base_order`), loaded now or by the job before.

        Raises:
            as :func:`finch_hub.engine.bases.load`.

        """
        from finch_hub.engine import bases

        cache = Path(order["cache"])
        if (
            self._base is not None
            and (self.key, self._dtype) == (order["key"], dtype)
            # Its files may have been replaced since. Hashes are remembered by size and time, so this is cheap.
            and bases.fingerprint(self._base.folder, cache=cache) == self._base.fingerprint
        ):
            return self._base
        self.forget()
        say("loading the base model")
        source = BaseModelSource.of(order["source"])
        found: BaseModelSource | Path = source
        if order["fetch"] is not None:  # a plugin's source
            fetch = load_target(order["fetch"], offered_by=f"base source of {source.source!r}")
            found = Path(fetch(source, cache=cache, progress=say))
        base = bases.load(found, dtype=dtype, cache=cache, progress=say)
        self._base = dataclasses.replace(base, name=source.source, revision=source.revision)
        self.key, self._dtype = order["key"], dtype
        return self._base

    def forget(self) -> None:
        """Let the base go."""
        if self._base is not None:
            self._base = self.key = None
            gc.collect()
