"""Engine: training, composition, merging, export and inference of LoRA adapters, without database and queue.

Names are imported on first use, so ``import finch_hub.engine`` loads no torch.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from finch_hub.progress import is_notebook

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base, load_base
    from finch_hub.engine.composition.compose import compose
    from finch_hub.engine.composition.core_space import Block, CoreSpace
    from finch_hub.engine.composition.parents import ParentInput
    from finch_hub.engine.composition.trial import Trial
    from finch_hub.engine.data.reading import read_examples
    from finch_hub.engine.data.splitting import split_examples
    from finch_hub.engine.export.gguf import export_gguf
    from finch_hub.engine.export.merging import merge
    from finch_hub.engine.export.parameters import GGUFParameters, PEFTParameters
    from finch_hub.engine.export.quantization import quantize
    from finch_hub.engine.export.verification import verify_merge
    from finch_hub.engine.export.vllm import export_vllm
    from finch_hub.engine.inference.evaluators import exact_answer, held_out_loss
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.engine.training.adapter import LoRAAdapter
    from finch_hub.engine.training.group import Member, train_group
    from finch_hub.engine.training.interruption import Interrupted
    from finch_hub.engine.training.loop import Trained, train
    from finch_hub.formats.adapter_folder import StoredAdapter

if is_notebook():
    # Otherwise transformers and huggingface_hub import it, and a cell shows that ipywidgets are missing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")

__all__ = [
    "Base",
    "Block",
    "CoreSpace",
    "GGUFParameters",
    "GeneratorModel",
    "Interrupted",
    "LoRAAdapter",
    "Member",
    "PEFTParameters",
    "ParentInput",
    "StoredAdapter",
    "Trained",
    "Trial",
    "compose",
    "exact_answer",
    "export_gguf",
    "export_vllm",
    "held_out_loss",
    "load_base",
    "merge",
    "quantize",
    "read_examples",
    "split_examples",
    "train",
    "train_group",
    "verify_merge",
]

_MODULES = {
    name: f"finch_hub.{module}"
    for module, names in {
        "engine.bases.base": ["Base", "load_base"],
        "engine.composition.compose": ["compose"],
        "engine.composition.core_space": ["Block", "CoreSpace"],
        "engine.composition.parents": ["ParentInput"],
        "engine.composition.trial": ["Trial"],
        "engine.data.reading": ["read_examples"],
        "engine.data.splitting": ["split_examples"],
        "engine.export.gguf": ["export_gguf"],
        "engine.export.merging": ["merge"],
        "engine.export.parameters": ["GGUFParameters", "PEFTParameters"],
        "engine.export.quantization": ["quantize"],
        "engine.export.verification": ["verify_merge"],
        "engine.export.vllm": ["export_vllm"],
        "engine.inference.evaluators": ["exact_answer", "held_out_loss"],
        "engine.inference.generator": ["GeneratorModel"],
        "engine.training.adapter": ["LoRAAdapter"],
        "engine.training.group": ["Member", "train_group"],
        "engine.training.interruption": ["Interrupted"],
        "engine.training.loop": ["Trained", "train"],
        "formats.adapter_folder": ["StoredAdapter"],
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
