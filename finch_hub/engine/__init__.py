"""Engine: training, composition, merging, export and inference of LoRA adapters, without database and queue.

Names are imported on first use, so ``import finch_hub.engine`` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base, load_base
    from finch_hub.engine.composition.compose import compose
    from finch_hub.engine.composition.core_space import CoreSpace
    from finch_hub.engine.composition.parents import ParentInput
    from finch_hub.engine.composition.trial import Trial
    from finch_hub.engine.data.reading import read_examples
    from finch_hub.engine.data.splitting import split_examples
    from finch_hub.engine.export.gguf import write as export_gguf
    from finch_hub.engine.export.merging import merge
    from finch_hub.engine.export.parameters import GGUFParameters, VLLMParameters
    from finch_hub.engine.export.quantization import quantize
    from finch_hub.engine.export.verification import verify as verify_merge
    from finch_hub.engine.export.vllm import write as export_vllm
    from finch_hub.engine.inference.evaluators import exact_answer, held_out_loss
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.engine.training.adapter import LoRAAdapter
    from finch_hub.engine.training.group import Member, train_group
    from finch_hub.engine.training.interruption import Interrupted
    from finch_hub.engine.training.loop import train
    from finch_hub.formats.adapter_folder import StoredAdapter

__all__ = [
    "Base",
    "CoreSpace",
    "GGUFParameters",
    "GeneratorModel",
    "Interrupted",
    "LoRAAdapter",
    "Member",
    "ParentInput",
    "StoredAdapter",
    "Trial",
    "VLLMParameters",
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

_ORIGINS = {
    "Base": "engine.bases.base:Base",
    "CoreSpace": "engine.composition.core_space:CoreSpace",
    "GGUFParameters": "engine.export.parameters:GGUFParameters",
    "GeneratorModel": "engine.inference.generator:GeneratorModel",
    "Interrupted": "engine.training.interruption:Interrupted",
    "LoRAAdapter": "engine.training.adapter:LoRAAdapter",
    "Member": "engine.training.group:Member",
    "ParentInput": "engine.composition.parents:ParentInput",
    "StoredAdapter": "formats.adapter_folder:StoredAdapter",
    "Trial": "engine.composition.trial:Trial",
    "VLLMParameters": "engine.export.parameters:VLLMParameters",
    "compose": "engine.composition.compose:compose",
    "exact_answer": "engine.inference.evaluators:exact_answer",
    "export_gguf": "engine.export.gguf:write",
    "export_vllm": "engine.export.vllm:write",
    "held_out_loss": "engine.inference.evaluators:held_out_loss",
    "load_base": "engine.bases.base:load_base",
    "merge": "engine.export.merging:merge",
    "quantize": "engine.export.quantization:quantize",
    "read_examples": "engine.data.reading:read_examples",
    "split_examples": "engine.data.splitting:split_examples",
    "train": "engine.training.loop:train",
    "train_group": "engine.training.group:train_group",
    "verify_merge": "engine.export.verification:verify",
}


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _ORIGINS[name].partition(":")
    return getattr(importlib.import_module(f"finch_hub.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
