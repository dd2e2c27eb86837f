"""Base models on the child's side: fetched, loaded, described, and kept from one job to the next."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine.bases import fingerprint, sources
from finch_hub.plugins.descriptors import load_target
from finch_hub.specs.jobs import BaseModelSource

if TYPE_CHECKING:
    from finch_hub.engine.bases.loading import Base
    from finch_hub.engine.bases.precision import Dtype


def fetch_base(order: dict[str, Any], *, say: Callable[[str], None]) -> Path:
    """Return a local folder with the base of an order (see :func:`finch_hub.workers.runs.common.base_order`).

    Raises:
        as :func:`finch_hub.engine.bases.sources.resolve`; and
        Incompatible: its files are not those that the order's adapters were made for.

    """

    cache, source = Path(order["cache"]), BaseModelSource.of(order["source"])
    if order["fetch"] is None:
        folder = sources.resolve(source, cache=cache, progress=say)
    else:
        fetch = load_target(order["fetch"], offered_by=f"base source of {source.source!r}")
        folder = Path(fetch(source, cache=cache, progress=say))
    if order["fingerprint"] is not None:
        check_fingerprint(fingerprint.fingerprint(folder, cache=cache), order["fingerprint"], "adapter", source.source)
    return folder


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
        """Return the base of an order (see :func:`fetch_base`), loaded now or by the job before.

        Raises:
            as :func:`finch_hub.engine.bases.loading.load_base`.

        """
        from finch_hub.engine.bases.loading import load_base

        cache = Path(order["cache"])
        if (
            self._base is not None
            and (self.key, self._dtype) == (order["key"], dtype)
            # Its files may have been replaced since. Hashes are remembered by size and time, so this is cheap.
            and fingerprint.fingerprint(self._base.folder, cache=cache) == self._base.fingerprint
            and order["fingerprint"] in (None, self._base.fingerprint)
        ):
            return self._base
        self.forget()
        folder = fetch_base(order, say=say)
        say("loading the base model")
        source = BaseModelSource.of(order["source"])
        base = load_base(folder, dtype=dtype, cache=cache)
        self._base = dataclasses.replace(base, name=source.source, revision=source.revision)
        self.key, self._dtype = order["key"], dtype
        return self._base

    def forget(self) -> None:
        """Let the base go."""
        if self._base is not None:
            self._base = self.key = None
            gc.collect()


def describe_base(base: Base, order: dict[str, Any]) -> dict[str, Any]:
    """Return what the registry keeps of a base that a child has loaded."""
    return {
        "name": base.name,
        "source": order["source"]["source"],
        "revision": order["source"]["revision"],
        "fingerprint": base.fingerprint,
        "architecture": str((base.model.config.architectures or [type(base.model).__name__])[0]),
        "parameters": base.parameters,
        "path": str(base.folder),
    }


def check_fingerprint(found: str, wanted: str, what: str, base: str) -> None:
    """Refuse a base whose files are not those that an adapter was made for.

    Raises:
        Incompatible: they differ.

    """
    if found != wanted:
        raise errors.Incompatible(
            errors.Problem(
                where=what,
                what=f"was made for a base with the fingerprint {wanted[:12]}…; {base} now has {found[:12]}…",
                fix="name the base that it was made for",
            )
        )
