"""Adapters are read as PEFT applies them, written so that PEFT applies the same, and refused by name otherwise."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
from support.adapters import VARIANTS, save_adapter
from support.updates import adapter, dense, relative
from transformers import AutoModelForCausalLM

from finch_hub import errors
from finch_hub.engine.adapters import weights
from finch_hub.engine.composition import factors

PLAIN = [name for name, config in VARIANTS.items() if not config.get("use_dora")]


def peft_deltas(base: Path, folder: Path) -> dict[str, np.ndarray]:
    """Return what PEFT itself adds to each module's weight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").double().detach().numpy()
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


@pytest.mark.parametrize("variant", PLAIN)
def test_scales_are_folded_in_as_peft_does(variant: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS[variant])
    read = factors.read(folder, "a")
    expected = peft_deltas(tiny_folder, folder)
    assert set(read.factors) == set(expected)
    for module, update in read.factors.items():
        assert relative(dense(update), expected[module]) < 1e-6


@pytest.mark.parametrize("variant", PLAIN)
def test_what_is_written_peft_applies_alike(variant: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS[variant])
    read = factors.read(folder, "a")
    weights.write(factors.to_weights(read.factors, factors.common_config([read])), tmp_path / "b")
    written = peft_deltas(tiny_folder, tmp_path / "b")
    assert set(written) == set(read.factors)
    for module, update in read.factors.items():
        assert relative(written[module], dense(update)) < 1e-6


def test_ranks_that_differ_are_written_as_patterns() -> None:
    made = {**adapter("a", seed=0, rank=2).factors, "layers.0.v": adapter("b", seed=1, rank=5).factors["layers.0.v"]}
    config = factors.config_of(made, {})
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"layers.0.v": 5}
    assert config["target_modules"] == sorted(made)


def test_places_are_kept_in_the_parents_words_only_where_they_agree() -> None:
    def with_targets(name: str, targets: list[str], modules: list[str] | None = None) -> factors.Adapter:
        made = adapter(name, seed=0, modules=modules)
        return factors.Adapter.of(name, made.factors, {"target_modules": targets, "base_model_name_or_path": "x"})

    one = with_targets("a", ["v", "q"])
    assert factors.common_config([one, with_targets("b", ["q", "v"])])["target_modules"] == ["q", "v"]
    assert "target_modules" not in factors.common_config([one, with_targets("b", ["q"], ["layers.0.q", "layers.1.q"])])
    assert factors.common_config([one])["base_model_name_or_path"] == "x"


def test_the_digest_is_of_the_content() -> None:
    assert adapter("a", seed=0).digest == adapter("b", seed=0).digest
    assert adapter("a", seed=0).digest != adapter("a", seed=1).digest


def edited(
    folder: Path, config: dict[str, object] | None = None, tensors: dict[str, torch.Tensor] | None = None
) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **(config or {})}))
    file = folder / "adapter_model.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(file), **(tensors or {})}, file)
    return folder


PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
STRUCTURAL: dict[str, tuple[dict[str, object], dict[str, torch.Tensor], str]] = {
    "dora": ({"use_dora": True}, {f"{PREFIX}.lora_magnitude_vector": torch.ones(64)}, "DoRA magnitudes"),
    "bias": ({"bias": "all"}, {f"{PREFIX}.bias": torch.ones(64)}, "biases"),
    "whole modules": (
        {"modules_to_save": ["lm_head"]}, {"base_model.model.lm_head.weight": torch.ones(448, 64)}, "whole modules",
    ),
    "embeddings": (
        {},
        {
            "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 448),
            "base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(64, 4),
        },
        "embedding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRUCTURAL)
def test_parts_that_do_not_add_up_are_refused_by_name(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    config, tensors, words = STRUCTURAL[kind]
    folder = edited(save_adapter(tiny_folder, tmp_path / "a", **VARIANTS["plain"]), config, tensors)
    with pytest.raises(errors.Incompatible, match=words):
        factors.read(folder, "parent")


def test_all_structural_problems_are_named_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS["plain"])
    for config, tensors, _ in STRUCTURAL.values():
        edited(folder, config, tensors)
    with pytest.raises(errors.Incompatible) as refused:
        factors.read(folder, "parent")
    assert len(refused.value.problems) == len(STRUCTURAL)


def test_nan_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS["plain"])
    edited(folder, tensors={f"{PREFIX}.lora_A.weight": torch.full((4, 64), torch.nan)})
    with pytest.raises(errors.Incompatible, match="NaN"):
        factors.read(folder, "parent")
