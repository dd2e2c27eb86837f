"""Bases that earlier versions registered, found again by the fingerprint of that time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub.engine.bases import fingerprint
from finch_hub.registry import bases

if TYPE_CHECKING:
    from finch_hub.specs.bases import BaseDescription
    from finch_hub.storage.stores import Stores


def find_earlier_fingerprint(base: BaseDescription, stores: Stores) -> str | None:
    """Return the fingerprint under which an earlier version registered the same files, None for none.

    :func:`finch_hub.registry.bases.add` then gives that base the new fingerprint, so that its versions stay usable.
    """
    with stores.database.read() as session:
        registered = [known for known in bases.fingerprints(session) if fingerprint.is_first_scheme(known)]
    if not registered or base.path is None or not (Path(base.path) / "config.json").is_file():
        return None
    earlier = fingerprint.compute_first_fingerprint(Path(base.path), cache=stores.bases)
    return earlier if earlier in registered else None
