from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.formats.foreign_names import canonical_name, make_renaming

Q = "model.layers.0.self_attn.q_proj"
NAMES = {
    "PEFT": (f"base_model.model.{Q}.lora_A.weight", f"{Q}.lora_A.weight"),
    "a raw state dict": (f"base_model.model.{Q}.lora_A.default.weight", f"{Q}.lora_A.weight"),
    "an adapter of another name": (f"base_model.model.{Q}.lora_B.my-birds.weight", f"{Q}.lora_B.weight"),
    "no prefix": (f"{Q}.lora_A.weight", f"{Q}.lora_A.weight"),
    "PEFT twice": (f"base_model.model.base_model.model.{Q}.lora_A.weight", f"{Q}.lora_A.weight"),
    "a model without its head": ("base_model.model.layers.0.q.lora_A.weight", "layers.0.q.lora_A.weight"),
    "DDP": (f"module.base_model.model.{Q}.lora_A.default.weight", f"{Q}.lora_A.weight"),
    "torch.compile": (f"_orig_mod.base_model.model.{Q}.lora_A.weight", f"{Q}.lora_A.weight"),
    "FSDP": (
        "base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_A.default.weight",
        f"{Q}.lora_A.weight",
    ),
    "checkpointing": (
        "base_model.model.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_B.weight",
        f"{Q}.lora_B.weight",
    ),
    "magnitudes": (f"base_model.model.{Q}.lora_magnitude_vector", f"{Q}.lora_magnitude_vector"),
    "magnitudes as a module's weight": (
        f"base_model.model.{Q}.lora_magnitude_vector.weight",
        f"{Q}.lora_magnitude_vector.weight",
    ),
    "named magnitudes": (f"base_model.model.{Q}.lora_magnitude_vector.default.weight", f"{Q}.lora_magnitude_vector"),
    "an embedding": (
        "base_model.model.model.embed_tokens.lora_embedding_A.default",
        "model.embed_tokens.lora_embedding_A",
    ),
    "a saved module": ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
    "a saved module of PEFT 0.5": ("base_model.model.lm_head.modules_to_save.weight", "lm_head.weight"),
    "a module in a saved module": ("base_model.model.score.modules_to_save.default.dense.weight", "score.dense.weight"),
    "a trained bias": (f"base_model.model.{Q}.bias", f"{Q}.bias"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.values(), ids=NAMES)
def test_name_becomes_that_of_peft(name: str, expected: str) -> None:
    assert canonical_name(name) == f"base_model.model.{expected}"


PARTS = ["base_model", "model", "module", "_orig_mod", "layers", "0", "q_proj", "lora_A", "lora_B", "default", "weight"]


@given(st.lists(st.sampled_from([*PARTS, "lora_magnitude_vector", "lora_embedding_A", "modules_to_save"]), min_size=1))
def test_canonical_name_is_its_own_canonical_name(parts: list[str]) -> None:
    name = canonical_name(".".join(parts))
    assert canonical_name(name) == name


KNOWN = [Q, "model.layers.1.self_attn.q_proj", "model.embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Q, Q),
        ("layers.0.self_attn.q_proj", Q),
        ("model.language_model.layers.0.self_attn.q_proj", Q),
        ("language_model.model.layers.0.self_attn.q_proj", Q),
        ("pretrained_model.model.layers.0.self_attn.q_proj", Q),
        ("model.text_model.layers.0.self_attn.q_proj", Q),
        ("language_model.lm_head", "lm_head"),
        ("embed_tokens", "model.embed_tokens"),
    ],
)
def test_path_in_a_model_around_the_same_layers_is_found(path: str, expected: str) -> None:
    assert make_renaming(KNOWN)(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "model.visual.blocks.0.attn.qkv",
        "model.vision_tower.layers.0.self_attn.q_proj",
        "encoder.layers.0.self_attn.q_proj",
        "model.layers.2.self_attn.q_proj",
        "q_proj",
    ],
)
def test_path_of_another_part_keeps_its_name(path: str) -> None:
    assert make_renaming(KNOWN)(path) == path


def test_path_that_fits_two_modules_keeps_its_name() -> None:
    both = ["model.language_model.layers.0.q", "text_model.layers.0.q"]
    assert make_renaming(both)("layers.0.q") == "layers.0.q"
    assert make_renaming(both)("text_model.layers.0.q") == "text_model.layers.0.q"
