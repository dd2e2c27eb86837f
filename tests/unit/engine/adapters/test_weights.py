"""Weights of an adapter by module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.adapters import VARIANTS, save_adapter

from finch_hub import errors
from finch_hub.engine.adapters.adapter_files import read_adapter
from finch_hub.engine.adapters.weights import AdapterWeights


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])


def test_modules_have_the_rank_and_scale_of_their_pattern(folder: Path) -> None:
    modules = read_adapter(folder).modules
    first, second = "model.layers.0.self_attn", "model.layers.1.self_attn"
    assert {path: (module.rank, module.scale) for path, module in modules.items() if path.startswith(second)} == {
        f"{second}.q_proj": (4, 5 / 4),
        f"{second}.k_proj": (2, 3 / 2),
        f"{second}.v_proj": (7, 8 / 7),
        f"{second}.o_proj": (4, 2.0),
    }
    assert modules[f"{first}.v_proj"].rank == 4
    assert modules[f"{first}.q_proj"].A.shape == (4, 64)
    assert modules[f"{first}.q_proj"].B.shape == (64, 4)


def test_modules_name_every_tensor_that_is_not_lora_or_does_not_fit(folder: Path) -> None:
    held = read_adapter(folder)
    tensors = dict(held.tensors)
    prefix = "base_model.model.model.layers.0.self_attn"
    tensors["base_model.model.lm_head.weight"] = torch.zeros(2, 2)
    del tensors[f"{prefix}.q_proj.lora_B.weight"]
    tensors[f"{prefix}.k_proj.lora_A.weight"] = torch.zeros(9, 64)
    with pytest.raises(errors.Incompatible) as caught:
        _ = AdapterWeights(config=held.config, tensors=tensors).modules
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "lm_head.weight: is not a LoRA matrix" in text
    assert "q_proj: has no lora_B.weight" in text
    assert "k_proj: A [9, 64] and B [32, 2] are not [rank, inputs] and [outputs, rank]" in text
