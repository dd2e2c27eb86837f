"""Comparison of two adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import VARIANTS, save_adapter

from finch_hub.engine.adapters import comparison


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return two copies of one adapter."""
    first, second = (save_adapter(tiny_folder, tmp_path / name, **VARIANTS["plain"]) for name in ("first", "second"))
    return first, second


def test_equal_folders_have_no_differences(folders: tuple[Path, Path]) -> None:
    found = comparison.compare_adapters(*folders)
    assert (found.config, found.tensors) == ((), ())
    assert found.num_tensors == len(load_file(folders[0] / "adapter_model.safetensors"))


def test_every_difference_is_named_and_measured(folders: tuple[Path, Path]) -> None:
    first, second = folders
    tensors = load_file(second / "adapter_model.safetensors")
    names = sorted(tensors)
    original = tensors[names[0]].clone()
    tensors[names[0]] = original + torch.eye(*original.shape) * 0.5
    tensors[names[1]] = tensors[names[1]] * (1 + 1e-3)
    tensors[names[2]] = tensors[names[2]][:1].clone()
    tensors[names[3]] = tensors[names[3]].double()
    tensors["another"] = tensors.pop(names[4])
    save_file(tensors, second / "adapter_model.safetensors")
    config = json.loads((second / "adapter_config.json").read_text())
    (second / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 5}))

    found = comparison.compare_adapters(first, second)
    assert [(change.name, change.reproduced) for change in found.config] == [("lora_alpha", 5)]
    assert found.num_tensors == len(names) + 1
    differences = {difference.name: difference for difference in found.tensors}
    assert differences.keys() == {*names[:5], "another"}
    assert "shape" in differences[names[2]].what
    assert "float64" in differences[names[3]].what
    assert differences[names[4]].what == "is only in the original"
    assert differences["another"].what == "is only in the reproduction"
    rank = min(original.shape)
    assert differences[names[0]].relative == pytest.approx(0.5 * rank**0.5 / float(original.norm()), rel=1e-5)
    assert differences[names[0]].largest == pytest.approx(0.5)
    assert differences[names[1]].relative == pytest.approx(1e-3, rel=1e-3)
    measured = [difference.relative for difference in found.tensors if difference.relative is not None]
    assert measured == sorted(measured, reverse=True)
