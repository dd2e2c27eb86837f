"""vLLM: a PEFT folder within its rules, as it reads neither rsLoRA's scale nor rank and alpha patterns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.engine.export.parameters import VLLMParameters
from finch_hub.engine.export.plain import require_plain
from finch_hub.formats import staging
from finch_hub.formats.adapter_folder import CONFIG, PREFIX, WEIGHTS, StoredAdapter
from finch_hub.formats.tensor_file import Float32, write_file

KIND = "vLLM adapter"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM lets ``--max-lora-rank`` be."""
DEFAULT_RANK = 16


def write(adapter: Path, base: Path | None, out: Path, parameters: VLLMParameters) -> dict[str, Any]:
    """Write the adapter with one rank for all modules and every scale folded into B, so that alpha / r is 1.

    Modules of a lower rank are filled up with zeros to the next rank that vLLM allows, which changes nothing.

    Returns:
        `rank`, `modules`, `bytes`, and in `serve` the option that the server needs beside ``--enable-lora``, where its
        default rank is too small.

    Raises:
        Incompatible: DoRA, biases, whole modules or embeddings, or a rank above vLLM's largest.
        NotFound: the adapter's folder or one of its files is missing.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.

    """
    with StoredAdapter(adapter) as stored:
        require_plain(stored, "vLLM")
        largest = max(module.rank for module in stored.modules.values())
        rank = next((allowed for allowed in RANKS if allowed >= largest), None)
        if rank is None:
            what = f"rank {largest} is above vLLM's largest, {RANKS[-1]}"
            problem = errors.Problem(what=what, fix="compose it to a lower rank, or merge it")
            raise errors.Incompatible(problem, subject=str(adapter))
        tensors: dict[str, tuple[str, Float32]] = {}
        for path, module in stored.modules.items():
            A, B = stored.factors(path)
            missing = rank - module.rank
            scaled = np.pad(B * np.float32(module.scale), ((0, 0), (0, missing)))
            tensors[f"{PREFIX}{path}.lora_A.weight"] = "F32", np.pad(A, ((0, missing), (0, 0)))
            tensors[f"{PREFIX}{path}.lora_B.weight"] = "F32", scaled
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
        with staging.staged(out, kind=KIND, replace=parameters.replace) as folder:
            write_file(folder / WEIGHTS, tensors, {"format": "pt"})
            (folder / CONFIG).write_text(
                json.dumps({**stored.config, **changes}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
            staging.write_record(folder, KIND, {"adapter": staging.record_of(adapter)})
            size = (folder / WEIGHTS).stat().st_size
    serve = f"--max-lora-rank {rank}" if rank > DEFAULT_RANK else ""
    return {"rank": rank, "modules": len(tensors) // 2, "bytes": size, "serve": serve}
