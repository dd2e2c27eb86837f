"""Base models of jobs: ordered by the supervisor, loaded by the child and kept from one job to the next."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.artifacts.license_fields import find_license
from finch_hub.engine.bases import fingerprint, sources
from finch_hub.plugins.descriptors import load_fetch
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import BaseModelSource
from finch_hub.specs.value import Value

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base
    from finch_hub.engine.bases.precision import Dtype
    from finch_hub.registry import values
    from finch_hub.storage.stores import Stores


class BaseOrder(Value):
    """What a child needs to load a base.

    Attributes:
        source: as the job names it.
        pinned: source that brings the files of the registered base; None fetches `source`.
        fetch: target of the plugin that brings a source to a local folder.
        fetched_by: base source that offers this target, as errors name it.
        cache: folder of converted and fetched bases.
        fingerprint: that the base must have; None takes any.
    """

    source: BaseModelSource
    pinned: BaseModelSource | None = None
    fetch: str
    fetched_by: str = "base source"
    cache: Path
    fingerprint: str | None = None


def order_base(source: BaseModelSource, stores: Stores) -> BaseOrder:
    """Return the order for a base. If it is registered, the order is for the files that it had then.

    A commit that was registered under a name of its own does not stand for the branch.

    Raises:
        NotFound: no plugin knows the source.
    """
    from finch_hub.registry import bases

    order = _order(source, stores)
    with stores.database.read() as session:
        registered = bases.find_source(session, source.source, source.revision)
    if registered is None or (source.revision is None and _is_named_commit(registered)):
        return order
    return pin_base(order, registered)


def _is_named_commit(base: values.Base) -> bool:
    return sources.source_of(base).revision is not None and base.name not in (base.source, base.fingerprint)


def order_base_of(base: values.Base, stores: Stores) -> BaseOrder:
    """Return the order for the base of a registered version, with the fingerprint that it must have."""
    return pin_base(_order(sources.source_of(base), stores), base)


def pin_base(order: BaseOrder, base: values.Base) -> BaseOrder:
    """Return the order for the files of a registered base."""
    return order.evolve(pinned=sources.source_of(base), fingerprint=base.fingerprint)


def _order(source: BaseModelSource, stores: Stores) -> BaseOrder:
    descriptor = stores.catalog.base_source_of(source.source)
    return BaseOrder(source=source, fetch=descriptor.target, fetched_by=descriptor.label, cache=stores.bases)


def fetch_base(order: BaseOrder, *, say: Callable[[str], None]) -> Path:
    """Return a local folder with the base of an order.

    Raises:
        NotFound: the source does not exist.
        Incompatible: its files are not those that the order's adapters were made for, or hold no usable model.
        Unavailable: the source does not answer.
    """
    fetch = load_fetch(order.fetch, offered_by=order.fetched_by)
    folder = fetch(order.pinned or order.source, cache=order.cache, progress=say)
    if order.fingerprint is not None:
        sources.check_files(folder, order.fingerprint, order.source.source, cache=order.cache)
    return folder


class BaseModelCache:
    """Cache of one base model: the memory of a second one belongs to the job.

    Attributes:
        key: :attr:`BaseModelSource.key` of the base that is held, None without one.
    """

    def __init__(self) -> None:
        self.key: str | None = None
        self._base: Base | None = None
        self._dtype: Dtype | None = None

    def load(self, order: BaseOrder, *, say: Callable[[str], None], dtype: Dtype = "auto") -> Base:
        """Return the base of an order, loaded now or by an earlier job.

        Raises:
            NotFound, Incompatible, Unavailable: see :func:`fetch_base`.
        """
        from finch_hub.engine.bases.base import load_base

        if (
            self._base is not None
            and (self.key, self._dtype) == (order.source.key, dtype)
            # Its files may have been replaced since. Hashes are cached by size and time, so this is cheap.
            and fingerprint.compute_fingerprint(self._base.folder, cache=order.cache) == self._base.fingerprint
            and (order.fingerprint is None or _has_fingerprint(self._base, order.fingerprint, order.cache))
        ):
            return self._base
        self.clear()
        folder = fetch_base(order, say=say)
        base = load_base(folder, dtype=dtype, cache=order.cache, progress=say)
        self._base = dataclasses.replace(base, name=order.source.source, revision=order.source.revision)
        self.key, self._dtype = order.source.key, dtype
        return self._base

    def clear(self) -> None:
        """Free the base."""
        if self._base is not None:
            self._base = self.key = None
            gc.collect()


def describe_base(base: Base, order: BaseOrder) -> BaseDescription:
    """Return what the registry stores of a loaded base."""
    known_license, link = find_license(base.folder, order.source.source)
    return BaseDescription(
        name=base.name,
        source=order.source.source,
        revision=sources.pin(order.source, base.folder).revision,
        fingerprint=base.fingerprint,
        architecture=str((base.model.config.architectures or [type(base.model).__name__])[0]),
        parameters=base.num_parameters,
        path=str(base.folder),
        license=known_license,
        license_link=link,
    )


def _has_fingerprint(base: Base, expected: str, cache: Path) -> bool:
    return expected in (base.fingerprint, fingerprint.compute_like(expected, base.folder, cache=cache))


def check_fingerprint(folder: Path, expected: str, adapter: str, base: str, *, cache: Path) -> None:
    """Check that the folder of a base has the files that an adapter was made for.

    Raises:
        Incompatible: the fingerprints differ.
    """
    found = fingerprint.compute_like(expected, folder, cache=cache)
    if found != expected:
        raise errors.Incompatible(
            f"was made for a base with the fingerprint {expected[:12]}…, but {base} has {found[:12]}…",
            where=adapter,
            fix="name the base that the adapter was made for",
        )
