"""Adapters that PEFT saves pass the gate and give equal logits afterwards."""

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from finch_hub.artifacts.gate import admit_adapter

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "expression": {"target_modules": r".*\.(gate|up)_proj"},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "v_proj": 3},
        "alpha_pattern": {"v_proj": 7},
        "use_rslora": True,
    },
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
    "saved module": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1], "exclude_modules": ["v_proj"]},
    "gaussian": {"target_modules": ["o_proj"], "init_lora_weights": "gaussian"},
}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def save(model: PreTrainedModel, folder: Path, **settings: Any) -> torch.Tensor:
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    adapted.eval().save_pretrained(folder)
    return logits(adapted)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(torch.arange(8)[None]).logits


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT calls it
@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_adapter_of_peft_passes_the_gate_and_gives_equal_logits(
    model: PreTrainedModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    before = save(model, tmp_path / "in", **settings)
    admitted = admit_adapter(tmp_path / "in", tmp_path / "out")
    assert admitted.quarantine == ()
    genuine, ours = (load_file(tmp_path / at / "adapter_model.safetensors") for at in ("in", "out"))
    assert genuine.keys() == ours.keys()
    assert all(torch.equal(genuine[name], ours[name]) for name in genuine)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of keys that are missing or too many
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), admitted.folder).eval()
    # The weights are the same bit by bit; logits differ in the last bit by where the tensors lie in memory.
    torch.testing.assert_close(logits(loaded), before, rtol=1e-5, atol=1e-5)
