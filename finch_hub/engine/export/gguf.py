"""Export to llama.cpp: a LoRA adapter as one GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFType, GGUFWriter, Keys, get_tensor_name_map
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.engine.export.merge_plan import plan_merge
from finch_hub.engine.export.parameters import GGUFParameters
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.atomic_writes import atomic_folder
from finch_hub.formats.finch_record import read_name, read_record, write_record
from finch_hub.formats.model_files import ModelFiles
from finch_hub.progress import track

KIND = "GGUF adapter"
FILE = "adapter.gguf"
# By model_type of transformers: GGUF's architecture, and whether llama.cpp reorders the rows of q and k.
_ARCHITECTURES = {
    "llama": (MODEL_ARCH.LLAMA, True),
    "mistral": (MODEL_ARCH.LLAMA, True),
    "qwen2": (MODEL_ARCH.QWEN2, False),
    "qwen3": (MODEL_ARCH.QWEN3, False),
}


def export_gguf(adapter: Path, base: Path | None, out: Path, parameters: GGUFParameters) -> dict[str, Any]:
    """Write ``adapter.gguf`` into the folder `out`.

    llama.cpp scales a tensor by alpha / rank of the tensor. PEFT's scales are folded into B. Rows of q and k are
    reordered for the architectures whose rows llama.cpp reorders.

    Returns:
        `file`, `architecture`, `alpha`, `modules`, `bytes`.

    Raises:
        Incompatible: the base does not fit or its architecture is unknown; the adapter has DoRA, biases, whole modules
            or embeddings; it adapts a head that the base ties to its embeddings.
        NotFound: a folder or file is missing.
        Conflict: `out` exists and may not be replaced.
        Unavailable: `out` cannot be written.
    """
    with atomic_folder(out, kind=KIND, replace=parameters.replace) as folder:
        report = write_file(adapter, base, folder / FILE, parameters)
        write_record(folder, KIND, {"adapter": read_record(adapter)})
    return {**report, "file": str(out / FILE)}


def write_file(adapter: Path, base: Path | None, file: Path, parameters: GGUFParameters) -> dict[str, Any]:
    """Write the GGUF file itself; see :func:`write`."""
    if base is None:
        raise errors.Incompatible("a GGUF adapter needs its base's config and tensor names")
    with StoredAdapter(adapter) as stored, ModelFiles(base) as files:
        stored.require_plain("llama.cpp")
        plan_merge(files, [(stored, 1.0)])  # raises if the adapter does not fit the base
        if files.is_tied and any(path.endswith("lm_head") for path in stored.modules):
            why = "the base ties its head to its embeddings, so GGUF has no tensor for it"
            fix = "merge it into its base instead"
            raise errors.Incompatible(why, where="lm_head", fix=fix, subject=str(adapter))
        model_type = str(files.config.get("model_type"))
        if model_type not in _ARCHITECTURES:
            known = ", ".join(sorted(_ARCHITECTURES))
            raise errors.Incompatible(
                f"the GGUF names of {model_type!r} are not known, only of {known}", subject=str(base)
            )
        architecture, is_reordered = _ARCHITECTURES[model_type]
        # A file has one alpha, and llama.cpp divides it by the rank of each tensor.
        alpha = max(module.rank for module in stored.modules.values())
        writer = GGUFWriter(None, MODEL_ARCH_NAMES[architecture])
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
        writer.add_name(parameters.name or read_name(adapter))
        dtype = np.float32 if parameters.dtype == "f32" else np.float16
        names = get_tensor_name_map(architecture, int(files.config["num_hidden_layers"]))
        for path, module in track(stored.modules.items(), "writing modules"):
            name = names.get_name(path)
            if name is None:
                raise errors.Incompatible("has no name in GGUF", where=path, subject=str(adapter))
            A, B = stored.factors(path)
            B = B * np.float32(module.scale * module.rank / alpha)
            if is_reordered and path.endswith(("q_proj", "k_proj")):
                B = B[row_order(len(B), _num_heads(files.config, path))]
            if max(np.abs(A).max(), np.abs(B).max()) > np.finfo(dtype).max:
                what = f"has weights too large for {parameters.dtype}"
                raise errors.Incompatible(what, where=path, fix="use f32", subject=read_name(adapter))
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
    """Return the row of transformers' q or k for each row of llama.cpp's.

    Rotary embeddings rotate pairs of a head's rows. transformers pairs row i with row i + half of the head; llama.cpp
    pairs neighboring rows.
    """
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _num_heads(config: Mapping[str, Any], path: str) -> int:
    heads = int(config["num_attention_heads"])
    return heads if path.endswith("q_proj") else int(config.get("num_key_value_heads") or heads)
