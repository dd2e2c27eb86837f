"""Export as a standalone model: the adapter merged into its base's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.engine.export import merging
from finch_hub.engine.export.parameters import MergedParameters


def write(adapter: Path, base: Path | None, out: Path, parameters: MergedParameters) -> dict[str, Any]:
    """Write the merged model.

    Raises:
        Incompatible: the base is missing; for others see `finch_hub.engine.export.merging.merge`.
    """
    if base is None:
        raise errors.Incompatible(errors.Problem(what="a merged model needs its base's weights"))
    report = merging.merge(
        base,
        [(adapter, parameters.weight)],
        out,
        base_model=parameters.base_model,
        replace=parameters.replace,
    )
    return {"modules": report.modules, "bytes": report.bytes_written, "seconds": report.seconds}
