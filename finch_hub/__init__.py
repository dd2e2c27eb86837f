"""Finch Hub: train, version, compose, merge and serve LoRA adapters, with measured evidence.

Names are imported when they are first used, so that ``import finch_hub`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from finch_hub import errors

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.engine.training.adapter import LoRAAdapter
    from finch_hub.hub import Hub
    from finch_hub.settings import Settings
    from finch_hub.specs.examples import Example, Message
    from finch_hub.specs.generation import GenerationConfig
    from finch_hub.specs.lora import LoRAConfig
    from finch_hub.specs.training import TrainingConfig

__all__ = [
    "Example",
    "GenerationConfig",
    "GeneratorModel",
    "Hub",
    "LoRAAdapter",
    "LoRAConfig",
    "Message",
    "Settings",
    "TrainingConfig",
    "errors",
]

_HOMES = {
    "Example": "finch_hub.specs.examples",
    "GenerationConfig": "finch_hub.specs.generation",
    "GeneratorModel": "finch_hub.engine.inference.generator",
    "Hub": "finch_hub.hub",
    "LoRAAdapter": "finch_hub.engine.training.adapter",
    "LoRAConfig": "finch_hub.specs.lora",
    "Message": "finch_hub.specs.examples",
    "Settings": "finch_hub.settings",
    "TrainingConfig": "finch_hub.specs.training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("finch-hub")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
