"""Layout of a model in memory, and of a base that transformers builds without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.pytorch_utils import Conv1D

from finch_hub import errors
from finch_hub.engine.bases.transformers_logging import quiet_transformers
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.peft_names import BASE_LAYER


def describe_model(model: Any, *, name: str) -> BaseLayout:
    """Return the modules and parameters of a model, without those of PEFT's layers in it."""
    linear: dict[str, tuple[int, int]] = {}
    embeddings: dict[str, tuple[int, int]] = {}
    transposed, fused, head = set(), [], None
    output = model.get_output_embeddings()
    for path, module in _walk(model, "", set()):
        if module is output:
            head = path
        own: Any = getattr(module, "base_layer", module)
        if isinstance(own, torch.nn.Linear):
            linear[path] = (own.out_features, own.in_features)
        elif isinstance(own, Conv1D):
            linear[path] = (own.weight.shape[1], own.weight.shape[0])
            transposed.add(path)
        elif isinstance(own, torch.nn.Embedding):
            embeddings[path] = (own.num_embeddings, own.embedding_dim)
        elif "expert" in f"{path} {type(own).__name__}".lower():  # convolutions and gates have three dimensions, too
            fused += [f"{path}.{key}" for key, value in own.named_parameters(recurse=False) if value.ndim == 3]
    parameters = {key.replace(BASE_LAYER, "."): tuple(value.shape) for key, value in model.state_dict().items()}
    return BaseLayout(
        name=name,
        linear=linear,
        transposed=frozenset(transposed),
        embeddings=embeddings,
        parameters={key: shape for key, shape in parameters.items() if ".lora_" not in key},
        fused=tuple(fused),
        head=head,
        model_type=str(model.config.model_type),
    )


def _walk(module: torch.nn.Module, path: str, seen: set[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield each module once, as `named_modules` does, but nothing inside of PEFT's layers."""
    if module in seen:
        return
    seen.add(module)
    yield path, module
    if not hasattr(module, "base_layer"):
        for name, child in module.named_children():
            yield from _walk(child, f"{path}.{name}" if path else name, seen)


def build_layout(folder: Path, *, name: str) -> BaseLayout:
    """Return the layout of the base in a folder, from a model on torch's device without memory.

    Raises:
        Incompatible: transformers cannot build the model.
    """
    try:
        with quiet_transformers(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged config raises nearly anything
        text = (str(error).strip() or repr(error)).splitlines()[0]
        raise errors.Incompatible(f"transformers cannot build it: {text}", subject=f"base model {name}") from error
    return describe_model(model, name=name)
