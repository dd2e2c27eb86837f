"""llama.cpp: a LoRA adapter as one GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFType, GGUFWriter, Keys, get_tensor_name_map
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.engine.export import merging
from finch_hub.engine.export.parameters import GGUFParameters
from finch_hub.engine.export.plain import require_plain
from finch_hub.formats import staging
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.model_files import CheckpointFiles

KIND = "GGUF adapter"
FILE = "adapter.gguf"
# model_type of transformers → GGUF's architecture, and whether llama.cpp keeps the rows of q and k reordered there.
_ARCHITECTURES = {
    "llama": (MODEL_ARCH.LLAMA, True),
    "mistral": (MODEL_ARCH.LLAMA, True),
    "qwen2": (MODEL_ARCH.QWEN2, False),
    "qwen3": (MODEL_ARCH.QWEN3, False),
}


def write(adapter: Path, base: Path | None, out: Path, parameters: GGUFParameters) -> dict[str, Any]:
    """Write ``adapter.gguf`` into the folder `out`.

    Every scale is folded in, so what llama.cpp computes for a tensor, alpha / rank of the tensor, gives PEFT's scale
    also with rsLoRA and patterns. Rows of q and k are reordered where llama.cpp keeps them so.

    Returns:
        `file`, `architecture`, `alpha`, `modules`, `bytes`.

    Raises:
        Incompatible: the base is of an architecture not known here or does not fit; DoRA, biases, whole modules or
            embeddings; a head that the base ties to its embeddings.
        NotFound: a folder or file is missing.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.

    """
    with staging.staged(out, kind=KIND, replace=parameters.replace) as folder:
        report = write_file(adapter, base, folder / FILE, parameters)
        staging.write_record(folder, KIND, {"adapter": staging.record_of(adapter)})
    return {**report, "file": str(out / FILE)}


def write_file(adapter: Path, base: Path | None, file: Path, parameters: GGUFParameters) -> dict[str, Any]:
    """Write the GGUF file itself; what :func:`write` says holds."""
    if base is None:
        raise errors.Incompatible(errors.Problem(what="a GGUF adapter needs its base's configuration and tensor names"))
    with StoredAdapter(adapter) as stored, CheckpointFiles(base) as files:
        require_plain(stored, "llama.cpp")
        _require_fit(stored, files)
        kind = str(files.config.get("model_type"))
        if kind not in _ARCHITECTURES:
            known = ", ".join(sorted(_ARCHITECTURES))
            problem = errors.Problem(what=f"GGUF names and row orders of {kind!r} are not known here, only of {known}")
            raise errors.Incompatible(problem, subject=str(base))
        architecture, reordered = _ARCHITECTURES[kind]
        # One alpha serves all tensors, and llama.cpp divides it by the rank of each.
        alpha = max(module.rank for module in stored.modules.values())
        writer = GGUFWriter(None, MODEL_ARCH_NAMES[architecture])
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
        writer.add_name(parameters.name or staging.name_of(adapter))
        dtype = np.float32 if parameters.dtype == "f32" else np.float16
        names = get_tensor_name_map(architecture, int(files.config["num_hidden_layers"]))
        for path, module in stored.modules.items():
            name = names.get_name(path)
            if name is None:
                raise errors.Incompatible(errors.Problem(where=path, what="has no name in GGUF"), subject=str(adapter))
            A, B = stored.factors(path)
            B = B * np.float32(module.scale * module.rank / alpha)
            if reordered and path.endswith(("q_proj", "k_proj")):
                B = B[row_order(len(B), _heads(files.config, path))]
            if max(np.abs(A).max(), np.abs(B).max()) > np.finfo(dtype).max:
                problem = errors.Problem(
                    where=path, what=f"has weights too large for {parameters.dtype}", fix="take f32"
                )
                raise errors.Incompatible(problem, subject=staging.name_of(adapter))
            writer.add_tensor(f"{name}.weight.lora_a", A.astype(dtype))
            writer.add_tensor(f"{name}.weight.lora_b", B.astype(dtype))
        try:
            writer.write_header_to_file(path=file)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        return {
            "architecture": MODEL_ARCH_NAMES[architecture],
            "alpha": alpha,
            "modules": len(stored.modules),
            "bytes": file.stat().st_size,
        }


def row_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Return which row of transformers' q or k stands at each place of llama.cpp's.

    Rotary embeddings turn pairs of a head's rows: transformers pairs row i with row i + half of the head, llama.cpp
    keeps Llama's pairs as neighbours.
    """
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _heads(config: Mapping[str, Any], path: str) -> int:
    heads = int(config["num_attention_heads"])
    return heads if path.endswith("q_proj") else int(config.get("num_key_value_heads") or heads)


def _require_fit(stored: StoredAdapter, files: CheckpointFiles) -> None:
    merging.plan(files, [(stored, 1.0)])
    if files.tied and any(path.endswith("lm_head") for path in stored.modules):
        what = "the base ties its head to its embeddings, and has no tensor of that name in GGUF"
        problem = errors.Problem(where="lm_head", what=what, fix="merge it into its base instead")
        raise errors.Incompatible(problem, subject=str(stored.folder))
