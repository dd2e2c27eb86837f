"""The façade: one method for each thing that users do; what the command line, the tests and programs call."""

from __future__ import annotations

from finch_hub.hub.facade import Hub
from finch_hub.hub.jobs import JobHandle

__all__ = ["Hub", "JobHandle"]
