"""Reader and writer of adapters in PEFT's format: a folder, or one `.safetensors` file."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from finch_hub import errors, settings
from finch_hub.artifacts.config_cleaning import MODULE_FIELDS, clean_config
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.formats import quantized
from finch_hub.formats.atomic_writes import atomic_file
from finch_hub.formats.peft_config import config_text
from finch_hub.formats.peft_names import CONFIG, CONFIG_KEY, WEIGHTS
from finch_hub.formats.safetensors_header import LFS_FIX, LFS_POINTER, TensorInfo, write_safetensors_header

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
_ARCHIVE = ("is an archive", "unpack it, or import it into a hub")
_FORMS = {
    ".gguf": ("is a GGUF adapter, which has no config of PEFT", "load the PEFT folder that it was made from"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"), _ARCHIVE),
}
"""Files that are no adapter that can be loaded, by their suffix: what they are, and what to do."""


def read_adapter(path: Path) -> AdapterWeights:
    """Read an adapter from a PEFT folder, or from one `.safetensors` file with the configuration in its metadata.

    The config or the weights of a PEFT folder name that folder.

    The tensors keep the dtype that they are stored in. Quantized tensors are restored as float32.

    Raises:
        NotFound: the folder or file does not exist.
        RefusedArtifact: the weights are pickled, the file is damaged, or the configuration is not that of
            a LoRA with rsLoRA or DoRA.
    """
    path = settings.expand_home(path)
    if path.name == CONFIG or (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
        path = path.parent
    file = path / WEIGHTS if path.is_dir() else path
    is_pickled = not file.is_file() and (path / "adapter_model.bin").exists()
    if file.suffix in _FORMS:
        what, fix = _FORMS[file.suffix]
        raise errors.RefusedArtifact(what, where=str(path), fix=fix)
    if file.suffix != ".safetensors" or is_pickled:
        what = "is not a safetensors file; pickled weights can run code"
        raise errors.RefusedArtifact(what, where=str(path), fix="save the adapter with safetensors")
    if not file.is_file():
        neighbors = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise errors.NotFound("adapter", str(path), neighbors)
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise errors.RefusedArtifact("is a pointer of Git LFS, not the file itself", where=str(file), fix=LFS_FIX)
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
        text = (path / CONFIG).read_text(encoding="utf-8") if path.is_dir() else metadata.get(CONFIG_KEY, "")
        tensors = safetensors.torch.load_file(file)
        scheme = quantized.Scheme.of(metadata)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise errors.RefusedArtifact(f"cannot be read: {error}", where=str(path)) from error
    cleaned = clean_config(text.encode()).fields
    config = json.loads(text)
    config.update({field: None for field in MODULE_FIELDS if field in config and cleaned[field] is None})
    return AdapterWeights(config=config, tensors=tensors if scheme is None else _restore(tensors, scheme))


def write_adapter(weights: AdapterWeights, path: Path) -> None:
    """Write an adapter as a PEFT folder, or as one file if the path ends in `.safetensors`.

    The same weights give the same bytes. Each file gets its name only when it is complete.
    """
    path = settings.expand_home(path)
    text = config_text(weights.config)
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        contents = {path: to_bytes(weights.tensors, {"format": "pt", CONFIG_KEY: text})}
    else:
        path.mkdir(parents=True, exist_ok=True)
        contents = {path / CONFIG: text.encode(), path / WEIGHTS: to_bytes(weights.tensors, {"format": "pt"})}
    for file, content in contents.items():
        with atomic_file(file) as temporary:
            temporary.write_bytes(content)


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Serialize tensors as safetensors. The library itself writes metadata in an order that differs from run to run."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    infos = {
        name: TensorInfo(dtype=_DTYPES[tensor.dtype], shape=tuple(tensor.shape), start=0, end=tensor.nbytes)
        for name, tensor in stored.items()
    }
    header, order = write_safetensors_header(infos, metadata)
    return b"".join([header, *(stored[name].flatten().view(torch.uint8).numpy().tobytes() for name in order)])


def _restore(tensors: dict[str, Tensor], scheme: quantized.Scheme) -> dict[str, Tensor]:
    scales = quantized.scales_of(tensors)
    restored = {}
    for name, tensor in tensors.items():
        scale = name + quantized.SCALE
        if scale in scales:
            stored = {name: tensor.numpy(), scale: tensors[scale].numpy()}
            restored[name] = torch.from_numpy(scheme.restore(name, stored))
        elif name not in scales:
            restored[name] = tensor
    return restored
