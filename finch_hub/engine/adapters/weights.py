"""The weights of a LoRA adapter in memory, and PEFT's files that they are read from and written to."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.formats import quantized
from finch_hub.formats.adapter_folder import CONFIG, PREFIX, WEIGHTS, scale_of

# Where a single file carries what a folder has in adapter_config.json.
CONFIG_KEY = "adapter_config"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleWeights:
    """The update of one linear module: ``scale * B @ A``.

    Attributes:
        A: [rank, in].
        B: [out, rank].
        scale: alpha / rank, or alpha / √rank with rsLoRA.
        magnitude: [out], DoRA's; None without DoRA.

    """

    A: Tensor
    B: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of the update."""
        return self.A.shape[0]


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """An adapter as PEFT stores it: the configuration's fields, and the tensors by their names in the file."""

    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)

    @cached_property
    def modules(self) -> dict[str, ModuleWeights]:
        """The adapted linear modules by their path in the model, with the scale that PEFT gives each.

        Raises:
            Incompatible: the adapter also changes embeddings, biases or whole modules; an A without its B; a rank other
                than the configuration's. All of it at once.

        """
        parts: dict[str, dict[str, Tensor]] = {}
        problems: list[errors.Problem] = []
        for name, tensor in self.tensors.items():
            path, role = _split(name)
            if role:
                parts.setdefault(path, {})[role] = tensor
            else:
                problems.append(errors.Problem(where=name, what="is no LoRA matrix of a linear module"))
        found: dict[str, ModuleWeights] = {}
        for path, tensors in parts.items():
            if not {"A", "B"} <= tensors.keys():
                missing = ", ".join(sorted({"A", "B"} - tensors.keys()))
                problems.append(errors.Problem(where=path, what=f"has no {missing} matrix"))
                continue
            rank, scale = scale_of(self.config, path)
            A, B = tensors["A"], tensors["B"]
            if A.ndim != 2 or B.ndim != 2 or A.shape[0] != rank or B.shape[1] != rank:
                what = f"A {list(A.shape)} and B {list(B.shape)} do not have the configuration's rank {rank}"
                problems.append(errors.Problem(where=path, what=what))
                continue
            magnitude = tensors.get("magnitude")
            found[path] = ModuleWeights(A=A, B=B, scale=scale, magnitude=magnitude)
        if not found and not problems:
            problems.append(errors.Problem(what="holds no tensors"))
        if problems:
            raise errors.Incompatible(problems, subject="adapter")
        return found

    @property
    def parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def read(path: Path) -> AdapterWeights:
    """Read an adapter: a PEFT folder, or one `.safetensors` file with the configuration in its metadata.

    Quantised adapters come back as float32, others in the dtype they are stored in.

    Raises:
        NotFound: there is no such folder or file.
        RefusedArtifact: the weights are pickled, the file is damaged, or the configuration is not LoRA's.

    """
    path = path.expanduser()
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix != ".safetensors" or (
        path.is_dir() and not file.is_file() and (path / "adapter_model.bin").exists()
    ):
        raise errors.RefusedArtifact(
            errors.Problem(what="is no safetensors file; pickled weights can run code", where=str(path))
        )
    if not file.is_file():
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise errors.NotFound("adapter", str(path), beside)
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
        text = (path / CONFIG).read_text() if path.is_dir() else metadata.get(CONFIG_KEY, "")
        config = json.loads(text)
        tensors = safetensors.torch.load_file(file)
        scheme = quantized.Scheme.of(metadata)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise errors.RefusedArtifact(errors.Problem(what=f"cannot be read: {error}", where=str(path))) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise errors.RefusedArtifact(errors.Problem(what="its configuration is not one of LoRA", where=str(path)))
    return AdapterWeights(config, tensors if scheme is None else _restore(tensors, scheme))


def write(weights: AdapterWeights, path: Path) -> None:
    """Write an adapter as a PEFT folder, or as one file where the path ends in `.safetensors`.

    The same weights give the same bytes. Each file appears under its name only when complete.
    """
    path = path.expanduser()
    text = json.dumps(weights.config, sort_keys=True, indent=2) + "\n"
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, to_bytes(weights.tensors, {"format": "pt", CONFIG_KEY: text}))
    else:
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / CONFIG, text.encode())
        _replace(path / WEIGHTS, to_bytes(weights.tensors, {"format": "pt"}))


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Serialise as safetensors, with the metadata in order: the library's own order differs from run to run."""
    data: bytes = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _split(name: str) -> tuple[str, str]:
    inner = name.removeprefix(PREFIX)
    for suffix, role in (
        (".lora_A.weight", "A"),
        (".lora_B.weight", "B"),
        (".lora_magnitude_vector", "magnitude"),
        (".lora_magnitude_vector.weight", "magnitude"),
    ):
        if inner.endswith(suffix):
            return inner.removesuffix(suffix), role
    return inner, ""


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


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it the owner's alone
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
