"""Resolver that changes nothing."""

from __future__ import annotations

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.plugins.descriptors import NoParameters


def resolve(core: CoreSpace, parameters: NoParameters) -> CoreSpace:
    """Return the core space unchanged."""
    return core
