"""Parents are read as PEFT applies them; parts that cannot be composed are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.adapters import VARIANTS, save_adapter
from support.updates import adapter, dense, peft_deltas, relative

from finch_hub import errors
from finch_hub.engine.composition.parents import read_parent

PLAIN = [name for name, config in VARIANTS.items() if not config.get("use_dora")]


@pytest.mark.parametrize("variant", PLAIN)
def test_scales_are_folded_as_peft_applies_them(variant: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS[variant])
    parent = read_parent(folder, "a")
    expected = peft_deltas(tiny_folder, folder)
    assert set(parent.factors) == set(expected)
    for module, update in parent.factors.items():
        assert relative(dense(update), expected[module]) < 1e-6


def test_digest_depends_on_the_content() -> None:
    assert adapter("a", seed=0).digest == adapter("b", seed=0).digest
    assert adapter("a", seed=0).digest != adapter("a", seed=1).digest


def edit_adapter(
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
        {"target_modules": r".*(_proj|embed_tokens)"},
        {
            "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 448),
            "base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(64, 4),
        },
        "embedding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRUCTURAL)
def test_parts_that_are_not_low_rank_updates_are_refused(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    config, tensors, words = STRUCTURAL[kind]
    folder = edit_adapter(save_adapter(tiny_folder, tmp_path / "a", **VARIANTS["plain"]), config, tensors)
    with pytest.raises(errors.Incompatible, match=words):
        read_parent(folder, "parent")


def test_all_structural_problems_are_named_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS["plain"])
    for config, tensors, _ in STRUCTURAL.values():
        edit_adapter(folder, config, tensors)
    with pytest.raises(errors.Incompatible) as refused:
        read_parent(folder, "parent")
    assert len(refused.value.problems) == len(STRUCTURAL)


def test_nan_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS["plain"])
    edit_adapter(folder, tensors={f"{PREFIX}.lora_A.weight": torch.full((4, 64), torch.nan)})
    with pytest.raises(errors.Incompatible, match="NaN"):
        read_parent(folder, "parent")
