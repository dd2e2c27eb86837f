"""Random LoRA adapters, made and saved by PEFT itself, on a base's folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TEXTS = ("The finch eats seeds in the morning.", "Where does it live? In woods and gardens.", "def add(a, b):")

# What an adapter can look like; every reader and writer of adapters is held against all of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "rslora": {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["q_proj", "k_proj", "down_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "rank_pattern": {"k_proj": 2, r"layers\.1\.self_attn\.v_proj": 7},
        "alpha_pattern": {"q_proj": 5, "k_proj": 3},
    },
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "v_proj", "up_proj"]},
}


def save_adapter(base: Path, folder: Path, *, seed: int = 0, bf16: bool = False, **config: Any) -> Path:
    """Save an adapter with random factors, magnitudes and saved modules, and return the folder."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of what the tests do on purpose, such as tied targets
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "magnitude" in name:
                    parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
                elif "modules_to_save" in name:
                    parameter.add_(0.05 * torch.randn_like(parameter))
                elif "lora_" in name:
                    parameter.normal_(0, 0.1)
        if bf16:
            adapted.to(torch.bfloat16)
        adapted.save_pretrained(folder)
    return folder


def logits(base: Path, adapters: Sequence[Path] = (), weights: Sequence[float] = ()) -> list[torch.Tensor]:
    """Return the logits ``[tokens, vocabulary]`` of each text, the adapters applied by PEFT."""
    import peft
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        for number, folder in enumerate(adapters):
            if number == 0:
                model = peft.PeftModel.from_pretrained(model, folder, adapter_name="0")
            else:
                model.load_adapter(folder, adapter_name=str(number))
        for module in model.modules():
            if isinstance(module, LoraLayer) and weights:
                module.scaling = {name: scale * weights[int(name)] for name, scale in module.scaling.items()}
        if len(adapters) > 1:
            model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    model.eval()
    with torch.inference_mode():
        return [model(tokenizer(text, return_tensors="pt").input_ids).logits[0] for text in TEXTS]
