"""The façade: one method for each thing that users do; what the command line, the tests and programs call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finch_hub.hub.facade import Hub

if TYPE_CHECKING:
    from finch_hub.hub.jobs import JobHandle

__all__ = ["Hub", "JobHandle"]


def __getattr__(name: str) -> Any:
    # Its module needs the registry, which a hub opens only when something is asked of it.
    if name == "JobHandle":
        from finch_hub.hub.jobs import JobHandle

        return JobHandle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
