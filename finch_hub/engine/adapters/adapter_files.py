"""Reader and writer of adapters in PEFT's format: a folder, or one `.safetensors` file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from finch_hub import errors, settings
from finch_hub.artifacts import adapter_source, archives
from finch_hub.artifacts.adapter_checks import (
    CheckedAdapter,
    check_adapter,
    find_large_updates,
    find_overflows,
    read_config_in_metadata,
)
from finch_hub.artifacts.config_cleaning import MODULE_FIELDS, parse_config
from finch_hub.artifacts.tensor_checks import MAX_VALUE, find_nonfinite, find_too_large
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.formats import quantized
from finch_hub.formats.atomic_writes import atomic_file
from finch_hub.formats.peft_config import config_text
from finch_hub.formats.peft_names import CONFIG, CONFIG_KEY, WEIGHTS
from finch_hub.formats.regular_files import find_links_out, read_regular_file
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import FLOATS, TensorInfo, write_safetensors_header
from finch_hub.specs.lora import UnusualValueWarning

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip


def read_adapter(path: Path) -> AdapterWeights:
    """Read an adapter from a PEFT folder, or from one `.safetensors` file with the configuration in its metadata.

    The config or the weights of a PEFT folder name that folder.

    The tensors keep the dtype that they are stored in. Quantized tensors are restored as float32.

    It makes the checks of the gate, except those against a base. An update so large that the gate quarantines the
    adapter is an `UnusualValueWarning`.

    Raises:
        NotFound: the folder or file does not exist.
        RefusedArtifact: the gate refuses the adapter: the weights are pickled, the file is damaged, a tensor has NaN or
            infinity, or the configuration is not that of a LoRA with rsLoRA or DoRA, or does not fit the tensors.
    """
    path = settings.expand_home(path)
    try:
        return _read_files(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise errors.RefusedArtifact(f"cannot be read: {error}", where=str(path)) from error


def _read_files(path: Path) -> AdapterWeights:
    path, weights = _find_weights(path)
    if path.is_dir() and (problems := find_links_out(path, [weights, path / CONFIG])):
        raise errors.RefusedArtifact(problems, subject=str(path))
    with SafetensorsFile(weights) as file:
        is_folder, shown = path.is_dir(), str(path)
        text = read_regular_file(path / CONFIG) if is_folder else read_config_in_metadata(file.metadata, shown=shown)
        checked = check_adapter(file, text, shown=shown)
    stored = safetensors.torch.load_file(weights)
    tensors = {new: stored[old] for old, new in checked.names.items()}
    _check_values(tensors, checked, shown=shown)
    config = parse_config(text)
    for field, value in checked.config.items():
        if field in config and config[field] is None:  # the default, which PEFT does not know of every field
            config[field] = value
    if checked.is_pinned:
        config |= {field: checked.config[field] for field in MODULE_FIELDS}
    scheme = checked.scheme
    return AdapterWeights(config=config, tensors=tensors if scheme is None else _restore(tensors, scheme))


def _check_values(tensors: Mapping[str, Tensor], checked: CheckedAdapter, *, shown: str) -> None:
    """Refuse NaN, infinity and absurd values, and warn of updates for which the gate quarantines an adapter."""
    problems, norms = checked.problems, {}
    for name, tensor in tensors.items():
        if checked.tensors[name].dtype in FLOATS:
            wide = torch.promote_types(tensor.dtype, torch.float32)
            norms[name] = float(torch.linalg.vector_norm(tensor, dtype=wide))
            if not math.isfinite(norms[name]):  # counting and float64 take longer, and a norm of float32 may overflow
                norms[name] = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
                problems += find_nonfinite(name, int((~tensor.isfinite()).sum()))
            if norms[name] > MAX_VALUE:
                problems += find_too_large(name, float(tensor.nan_to_num(0.0, 0.0, 0.0).abs().max()))
    if not problems:
        problems += find_overflows(checked.modules, norms, checked.tensors, checked.scheme)
    if problems:
        raise errors.RefusedArtifact(problems, subject=shown)
    for update in find_large_updates(checked.modules, norms, checked.tensors, checked.scheme):
        warnings.warn(update, UnusualValueWarning, stacklevel=2)


def _find_weights(path: Path) -> tuple[Path, Path]:
    """Return the folder or file of an adapter, and its weights.

    Raises:
        NotFound: they do not exist.
        RefusedArtifact: they have another form.
    """
    if path.name == CONFIG or (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
        path = path.parent
    if not path.exists() and not path.suffix:
        raise _not_found(path)
    file = path / WEIGHTS if path.is_dir() else path
    is_pickled = not file.is_file() and (path / "adapter_model.bin").exists()
    name = file.name.lower()
    if name.endswith(".gguf"):
        raise adapter_source.gguf_error(str(path))
    if name.endswith((*archives.SUFFIXES, *archives.OTHER_SUFFIXES)):
        raise errors.RefusedArtifact("is an archive", where=str(path), fix="unpack it, or import it into a hub")
    if file.suffix != ".safetensors" or is_pickled:
        what = "is not a safetensors file; pickled weights can run code"
        raise errors.RefusedArtifact(what, where=str(path), fix="save the adapter with safetensors")
    if not file.is_file():
        raise _not_found(path)
    return path, file


def _not_found(path: Path) -> errors.NotFound:
    neighbors = [str(neighbor) for neighbor in path.parent.iterdir()] if path.parent.is_dir() else []
    return errors.NotFound("adapter", str(path), neighbors)


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
