"""Composed updates in the form of a PEFT adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finch_hub.engine.adapters import weights
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.formats.peft_names import tensor_name

# Fields of `adapter_config.json` that name the model, and fields that name the adapted modules.
_IDENTITY = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "peft_version")
_PLACE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def to_weights(factors: Mapping[str, Factors], config: Mapping[str, Any]) -> weights.AdapterWeights:
    """Return updates in PEFT's form with scale 1 in every module: ``lora_alpha`` equals the rank."""
    tensors: dict[str, Tensor] = {}
    for path, update in sorted(factors.items()):
        tensors[tensor_name(path, "A")] = update.A.to(torch.float32).contiguous()
        tensors[tensor_name(path, "B")] = update.B.to(torch.float32).contiguous()
    return weights.AdapterWeights(config=make_config(factors, config), tensors=tensors)


def common_config(adapters: Sequence[ParentAdapter]) -> dict[str, Any]:
    """Return the config fields of the parents that also hold for their composition.

    Fields that name modules are kept only if all parents adapt the same modules and have equal fields. Otherwise
    `make_config` lists every module path, because PEFT would add modules that have no weights.
    """
    first = adapters[0]
    kept = {key: value for key, value in first.config.items() if key in _IDENTITY}
    has_same_modules = all(
        set(adapter.factors) == set(first.factors)
        and all(_sorted(adapter.config.get(key)) == _sorted(first.config.get(key)) for key in _PLACE)
        for adapter in adapters
    )
    if has_same_modules and first.config.get("target_modules"):
        kept |= {key: _sorted(first.config[key]) for key in _PLACE if first.config.get(key) is not None}
    return kept


def make_config(factors: Mapping[str, Factors], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``adapter_config.json`` of updates with folded scales; `config` holds the fields of the parents."""
    ranks = Counter(update.rank for update in factors.values())
    usual = ranks.most_common(1)[0][0]
    unusual = {path: update.rank for path, update in sorted(factors.items()) if update.rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "target_modules": sorted(factors),
        **{key: config[key] for key in (*_IDENTITY, *_PLACE) if key in config},
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": dict(unusual),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, (list, tuple, set, frozenset)) else value
