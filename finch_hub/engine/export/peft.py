"""Export to PEFT: the adapter's folder, in full width."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from finch_hub.engine.export.parameters import PEFTParameters
from finch_hub.formats import quantized
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.atomic_writes import atomic_folder
from finch_hub.formats.card_files import copy_card_files
from finch_hub.formats.finch_record import read_record, write_record
from finch_hub.formats.peft_config import config_text
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.formats.safetensors_file import write_safetensors

KIND = "PEFT adapter"


def export_peft(adapter: Path, base: Path | None, out: Path, parameters: PEFTParameters) -> dict[str, Any]:
    """Write the adapter as a folder that every PEFT reads, with its card; quantized factors become float32.

    Raises:
        NotFound: the adapter's folder or one of its files is missing.
        Incompatible: the adapter is not a supported LoRA.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.
    """
    with StoredAdapter(adapter) as stored, atomic_folder(out, kind=KIND, replace=parameters.replace) as folder:
        config = dict(stored.config)
        if parameters.base_model is not None:
            config["base_model_name_or_path"] = parameters.base_model
        (folder / CONFIG).write_text(config_text(config), encoding="utf-8")
        if quantized.METADATA in stored.file.metadata:
            tensors = {name: ("F32", stored.tensor(name)) for name in stored.names}
            write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
        else:
            shutil.copyfile(adapter / WEIGHTS, folder / WEIGHTS)
        copy_card_files(adapter, folder)
        write_record(folder, KIND, {"adapter": read_record(adapter)})
        return {"modules": len(stored.modules), "bytes": (folder / WEIGHTS).stat().st_size}
