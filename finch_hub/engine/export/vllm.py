"""Export to vLLM: a PEFT folder without rsLoRA and patterns, which vLLM ignores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.engine.export.parameters import PEFTParameters
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.atomic_writes import atomic_folder
from finch_hub.formats.card_files import copy_card_files
from finch_hub.formats.finch_record import read_record, write_record
from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.peft_config import config_text
from finch_hub.formats.peft_names import CONFIG, WEIGHTS, tensor_name
from finch_hub.formats.safetensors_file import write_safetensors
from finch_hub.formats.vllm_limits import RANKS, find_rank, name_options

KIND = "vLLM adapter"


def export_vllm(adapter: Path, base: Path | None, out: Path, parameters: PEFTParameters) -> dict[str, Any]:
    """Write the adapter with one rank for all modules and all scales folded into B.

    So alpha / r is 1. Modules of a lower rank are padded with zeros to the next rank that vLLM accepts; their updates
    stay the same.

    Returns:
        `rank`, `modules`, `bytes` and `serve`: the server's options, with the rank if its default is too small.

    Raises:
        Incompatible: DoRA, biases, whole modules or embeddings, or a rank above vLLM's largest.
        NotFound: the adapter's folder or one of its files is missing.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.
    """
    with StoredAdapter(adapter) as stored:
        stored.require_plain("vLLM")
        largest = max(module.rank for module in stored.modules.values())
        rank = find_rank(largest)
        if rank is None:
            what = f"rank {largest} is above vLLM's maximum of {RANKS[-1]}"
            raise errors.Incompatible(what, fix="compose it to a lower rank or merge it", subject=str(adapter))
        tensors: dict[str, tuple[str, Float32]] = {}
        for path, module in stored.modules.items():
            A, B = stored.factors(path)
            missing = rank - module.rank
            scaled = np.pad(B * np.float32(module.scale), ((0, 0), (0, missing)))
            tensors[tensor_name(path, "A")] = "F32", np.pad(A, ((0, missing), (0, 0)))
            tensors[tensor_name(path, "B")] = "F32", scaled
        changes: dict[str, Any] = {
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_rslora": False,
            "use_dora": False,
            "bias": "none",
            "modules_to_save": None,
            "target_modules": sorted({path.rpartition(".")[2] for path in stored.modules}),
            "inference_mode": True,
        }
        if parameters.base_model is not None:
            changes["base_model_name_or_path"] = parameters.base_model
        with atomic_folder(out, kind=KIND, replace=parameters.replace) as folder:
            write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
            (folder / CONFIG).write_text(config_text({**stored.config, **changes}), encoding="utf-8")
            copy_card_files(adapter, folder)
            write_record(folder, KIND, {"adapter": read_record(adapter)})
            size = (folder / WEIGHTS).stat().st_size
    return {"rank": rank, "modules": len(tensors) // 2, "bytes": size, "serve": " ".join(name_options(rank))}
