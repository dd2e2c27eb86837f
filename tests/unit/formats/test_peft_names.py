from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from support.adapters import VARIANTS, save_adapter

from finch_hub.formats.peft_names import SUFFIXES, WEIGHTS, Part, split_name, tensor_name


@pytest.mark.parametrize("part", SUFFIXES)
def test_split_name_inverts_tensor_name(part: Part) -> None:
    assert split_name(tensor_name("model.layers.0.q_proj", part)) == ("model.layers.0.q_proj", part)


def test_magnitude_as_a_modules_weight_is_a_magnitude() -> None:
    assert split_name(f"{tensor_name('q', 'magnitude')}.weight") == ("q", "magnitude")


@pytest.mark.parametrize("name", ["base_model.model.lm_head.weight", "base_model.model.q.lora_A.weight.weight"])
def test_other_name_has_no_part(name: str) -> None:
    assert split_name(name) == (name.removeprefix("base_model.model."), None)


def test_names_are_those_of_peft(tiny_folder: Path, tmp_path: Path) -> None:
    names = set(load_file(save_adapter(tiny_folder, tmp_path, **VARIANTS["dora"]) / WEIGHTS))
    paths = {split_name(name)[0] for name in names}
    parts: tuple[Part, ...] = ("A", "B", "magnitude")
    assert names == {tensor_name(path, part) for path in paths for part in parts}
