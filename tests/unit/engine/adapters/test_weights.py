"""Adapters are read from and written to PEFT's files; nothing pickled, the same bytes every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from support.adapters import VARIANTS, save_adapter

from finch_hub import errors
from finch_hub.engine.adapters import weights
from finch_hub.engine.export import quantization


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])


def test_modules_have_the_scale_and_rank_of_their_pattern(folder: Path) -> None:
    modules = weights.read(folder).modules
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


@pytest.mark.parametrize("name", ["folder", "one.safetensors"])
def test_what_is_written_is_read_again(folder: Path, tmp_path: Path, name: str) -> None:
    before = weights.read(folder)
    weights.write(before, tmp_path / "deep" / name)
    after = weights.read(tmp_path / "deep" / name)
    assert after.config == before.config
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[key], before.tensors[key]) for key in before.tensors)
    assert sorted(path.name for path in (tmp_path / "deep").rglob("*") if path.name.startswith(".")) == []


def test_dtype_is_kept(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "adapter", bf16=True, **VARIANTS["plain"])
    assert {tensor.dtype for tensor in weights.read(folder).tensors.values()} == {torch.bfloat16}


def test_same_weights_give_the_same_bytes_in_every_process(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from finch_hub.engine import weights; "
        "weights.write(weights.read(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    # The library orders metadata by a hash that is seeded anew in each process, and each map.
    for number in range(2):
        subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / f"{number}.safetensors")], check=True)
    written = {(tmp_path / f"{number}.safetensors").read_bytes() for number in range(2)}
    held = weights.read(folder)
    written |= {weights.to_bytes(held.tensors, {f"key {n}": "" for n in order}) for order in ((0, 1, 2), (2, 1, 0))}
    assert len(written) == 2


def test_a_single_file_is_one_that_others_read(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "physics.safetensors"
    weights.write(weights.read(folder), file)
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["adapter_config"])["peft_type"] == "LORA"
        assert len(list(opened.keys())) == 16


def test_pickles_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    for path in (folder, folder / "adapter_model.bin", tmp_path / "adapter.pt"):
        with pytest.raises(errors.RefusedArtifact, match="pickled weights can run code"):
            weights.read(path)


def test_missing_files_are_not_found(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"did you mean .*/adapter'"):
        weights.read(tmp_path / "adaptor.safetensors")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(errors.RefusedArtifact, match=r"adapter_config\.json"):
        weights.read(folder)


def test_damaged_files_are_refused(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(errors.RefusedArtifact, match="cannot be read"):
        weights.read(folder)


def test_what_is_no_lora_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(errors.RefusedArtifact, match="not one of LoRA"):
        weights.read(folder)


def test_everything_that_modules_cannot_hold_is_named(folder: Path) -> None:
    held = weights.read(folder)
    tensors = dict(held.tensors)
    prefix = "base_model.model.model.layers.0.self_attn"
    tensors["base_model.model.lm_head.weight"] = torch.zeros(2, 2)
    del tensors[f"{prefix}.q_proj.lora_B.weight"]
    tensors[f"{prefix}.k_proj.lora_A.weight"] = torch.zeros(9, 64)
    with pytest.raises(errors.Incompatible) as caught:
        _ = weights.AdapterWeights(held.config, tensors).modules
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "lm_head.weight: is no LoRA matrix" in text
    assert "q_proj: has no B matrix" in text
    assert "A [9, 64] and B [32, 2] do not have the configuration's rank 2" in text


def test_a_quantised_adapter_reads_like_any_other(folder: Path, tmp_path: Path) -> None:
    before = weights.read(folder).modules
    quantization.quantize(folder, tmp_path / "packed", scheme="int8")
    with safe_open(tmp_path / "packed" / "adapter_model.safetensors", framework="pt") as opened:
        assert "finch_quantization" in opened.metadata()
    after = weights.read(tmp_path / "packed").modules
    assert after.keys() == before.keys()
    for path, module in before.items():
        update = after[path].scale * after[path].B @ after[path].A
        wanted = module.scale * module.B @ module.A
        assert torch.linalg.norm(update - wanted) < 0.02 * torch.linalg.norm(wanted)


def test_bytes_are_safetensors(folder: Path) -> None:
    tensors = weights.read(folder).tensors
    again = safetensors.torch.load(weights.to_bytes(tensors, {"b": "1", "a": "2"}))
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
