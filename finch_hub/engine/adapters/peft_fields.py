"""Conversion between `LoRAConfig` and the fields of PEFT's `adapter_config.json`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.peft_names import CONFIG
from finch_hub.specs.lora import LoRAConfig, UnusualValueWarning

if TYPE_CHECKING:
    import peft

    from finch_hub.engine.bases.base import Base


def from_lora_config(config: LoRAConfig, base: Base, layout: BaseLayout, paths: Iterable[str]) -> dict[str, Any]:
    """Return PEFT's fields as plain JSON values, for the modules at these paths."""
    import peft  # late, so that a submission that starts from a version loads no torch

    from finch_hub.engine.bases import target_modules

    fields = peft.LoraConfig(
        r=target_modules.default_rank(config),
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=target_modules.peft_targets(config, layout),
        exclude_modules=list(config.exclude_modules) or None,
        layers_to_transform=target_modules.peft_layers(config),
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        fan_in_fan_out=not layout.transposed.isdisjoint(paths),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name,
        revision=base.revision,
        inference_mode=True,
    )
    return dict(json.loads(json.dumps(fields.to_dict(), default=sorted)))  # PEFT keeps names in sets


def to_lora_config(fields: Mapping[str, Any], paths: Iterable[str]) -> LoRAConfig:
    """Return the configuration that PEFT's fields describe, without warnings about unusual values.

    Args:
        paths: of the adapted modules. They stand for fields that the configuration does not have.
    """
    targets = fields.get("target_modules") or tuple(paths)
    layers = fields.get("layers_to_transform")
    excluded = fields.get("exclude_modules") or ()
    if isinstance(excluded, str) or fields.get("layers_pattern"):
        targets, excluded, layers = tuple(paths), (), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)
        return LoRAConfig.of(
            {
                "rank": fields.get("r", 8),
                "alpha": fields.get("lora_alpha", 8),
                "dropout": fields.get("lora_dropout") or 0.0,
                "target_modules": targets if isinstance(targets, str) else tuple(targets),
                "exclude_modules": tuple(excluded),
                "layers_to_transform": (layers,) if isinstance(layers, int) else layers,
                "rank_pattern": fields.get("rank_pattern") or {},
                "alpha_pattern": fields.get("alpha_pattern") or {},
                "use_rslora": bool(fields.get("use_rslora")),
                "use_dora": bool(fields.get("use_dora")),
            },
            subject=CONFIG,
        )


def for_layers(fields: Mapping[str, Any], paths: Sequence[str]) -> peft.LoraConfig:
    """Return the configuration with which PEFT wraps exactly these modules, A and B not initialized from data."""
    import peft

    exact = {"target_modules": list(paths), "exclude_modules": None, "layers_to_transform": None}
    trainable = {"layers_pattern": None, "inference_mode": False, "init_lora_weights": True}
    known = peft.LoraConfig.__dataclass_fields__  # a file of another PEFT version can have further fields
    return peft.LoraConfig(**{name: value for name, value in {**fields, **exact, **trainable}.items() if name in known})
