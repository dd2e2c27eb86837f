"""Export format: a table of modules."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from finch_hub.formats.adapter_folder import StoredAdapter
from finch_sample.parameters import TableParameters


def write(adapter: Path, base: Path | None, out: Path, parameters: TableParameters) -> dict[str, Any]:
    """Write a line for each module."""
    out.mkdir(parents=True)
    with StoredAdapter(adapter) as stored, (out / "modules.csv").open("w", newline="") as file:
        lines = csv.writer(file, delimiter=parameters.separator)
        lines.writerow(["module", "rank", "scale"])
        for path, module in stored.modules.items():
            lines.writerow([path, module.rank, module.scale])
        return {"modules": len(stored.modules)}
