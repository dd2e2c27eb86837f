"""The resolver that leaves everything as it is."""

from __future__ import annotations

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.plugins.resolvers.parameters import KeepParameters


def resolve(core: CoreSpace, parameters: KeepParameters) -> CoreSpace:
    """Return the core space itself."""
    return core
