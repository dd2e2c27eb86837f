"""`LoRAConfig` from PEFT's fields."""

from __future__ import annotations

from finch_hub.engine.adapters import peft_fields


def test_unusual_values_of_other_tools_raise_no_warning() -> None:
    config = peft_fields.to_lora_config(
        {"peft_type": "LORA", "r": 256, "lora_alpha": 512, "target_modules": ["q_proj"], "bias": "none"}, []
    )
    assert (config.rank, config.alpha) == (256, 512)
