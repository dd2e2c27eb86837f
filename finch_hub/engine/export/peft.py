"""Plain PEFT: the adapter as it is, at full width."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from finch_hub.engine.export.parameters import ExportParameters
from finch_hub.formats import quantized, staging
from finch_hub.formats.adapter_folder import CONFIG, WEIGHTS, StoredAdapter
from finch_hub.formats.tensor_file import write_file

KIND = "PEFT adapter"


def write(adapter: Path, base: Path | None, out: Path, parameters: ExportParameters) -> dict[str, Any]:
    """Write the adapter's folder as every PEFT reads it; a quantised one is written out in float32.

    Raises:
        NotFound: the adapter's folder or one of its files is missing.
        Incompatible: it is no LoRA that is known here.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.

    """
    with StoredAdapter(adapter) as stored, staging.staged(out, kind=KIND, replace=parameters.replace) as folder:
        (folder / CONFIG).write_text(json.dumps(dict(stored.config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if quantized.METADATA in stored.file.metadata:
            tensors = {name: ("F32", stored.tensor(name)) for name in stored.names}
            write_file(folder / WEIGHTS, tensors, {"format": "pt"})
        else:
            shutil.copyfile(adapter / WEIGHTS, folder / WEIGHTS)
        if (adapter / "README.md").exists():
            shutil.copyfile(adapter / "README.md", folder / "README.md")
        staging.write_record(folder, KIND, {"adapter": staging.record_of(adapter)})
        return {"modules": len(stored.modules), "bytes": (folder / WEIGHTS).stat().st_size}
