from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import VARIANTS, logits, save_adapter

from finch_hub import errors
from finch_hub.engine.export import vllm
from finch_hub.engine.export.parameters import PEFTParameters
from finch_hub.formats.vllm_limits import RANKS


def problems_of_vllm(folder: Path, *, max_rank: int) -> list[str]:
    """Return the problems that vLLM would find in an adapter's folder, by its documentation."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = []
    if config["peft_type"] != "LORA":
        found.append("peft_type")
    if config["r"] > max_rank or max_rank not in RANKS:
        found.append("rank")
    found += [field for field in ("use_dora", "modules_to_save", "use_rslora") if config.get(field)]
    found += ["bias"] if config["bias"] != "none" else []
    found += [name for name in tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    found += [n for n, t in tensors.items() if t.shape[0 if "lora_A" in n else 1] != config["r"]]
    found += [n for n in tensors if n.split(".")[-3] not in config["target_modules"]]
    return found


def assert_right(base: Path, adapter: Path, out: Path) -> None:
    report = vllm.export_vllm(adapter, None, out, PEFTParameters(base_model="birds/finch-1"))
    assert problems_of_vllm(out, max_rank=8) == []
    assert report["rank"] == 8
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "birds/finch-1"
    for ours, theirs in zip(logits(base, [out]), logits(base, [adapter]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "rslora"])
def test_export_keeps_the_rules_of_vllm_and_the_logits(tiny_folder: Path, tmp_path: Path, variant: str) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS[variant])
    assert_right(tiny_folder, adapter, tmp_path / "out")


def test_export_is_right_on_every_architecture(tiny_folders: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folders, tmp_path / "adapter", **VARIANTS["patterns"])
    assert_right(tiny_folders, adapter, tmp_path / "out")


def test_reader_without_patterns_gets_every_scale(tiny_folder: Path, tmp_path: Path) -> None:
    """vLLM scales every module by the config's alpha / r, so that must be the whole scale."""
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])
    vllm.export_vllm(adapter, None, tmp_path / "out", PEFTParameters())
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "out", adapter))
    scales = {"q_proj": 5 / 4, "k_proj": 3 / 2, "v_proj": 8 / 4, "o_proj": 8 / 4}
    for name in (n for n in theirs if "lora_A" in n):
        other = name.replace("lora_A", "lora_B")
        scale = 8 / 7 if "layers.1.self_attn.v_proj" in name else scales[name.split(".")[-3]]
        torch.testing.assert_close(ours[other] @ ours[name], scale * theirs[other] @ theirs[name])


def test_rank_is_padded_to_the_next_allowed_one_and_reported(tiny_folder: Path, tmp_path: Path) -> None:
    for rank, allowed, serve in (
        (1, 1, "--enable-lora"),
        (9, 16, "--enable-lora"),
        (17, 32, "--enable-lora --max-lora-rank 32"),
        (300, 320, "--enable-lora --max-lora-rank 320"),
    ):
        adapter = save_adapter(tiny_folder, tmp_path / f"{rank}", r=rank, target_modules=["q_proj"])
        report = vllm.export_vllm(adapter, None, tmp_path / f"{rank}-out", PEFTParameters())
        assert (report["rank"], report["serve"]) == (allowed, serve)
    adapter = save_adapter(tiny_folder, tmp_path / "513", r=513, target_modules=["q_proj"])
    with pytest.raises(errors.Incompatible, match="rank 513 is above"):
        vllm.export_vllm(adapter, None, tmp_path / "out", PEFTParameters())


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (VARIANTS["dora"], "DoRA magnitudes"),
        ({"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "does not support whole modules"),
    ],
)
def test_unsupported_adapter_is_refused(tiny_folder: Path, tmp_path: Path, config: dict[str, Any], what: str) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **config)
    with pytest.raises(errors.Incompatible, match=what):
        vllm.export_vllm(adapter, None, tmp_path / "out", PEFTParameters())
    assert not (tmp_path / "out").exists()


def test_adapter_with_only_whole_modules_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(
        tiny_folder, tmp_path / "adapter", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    file = adapter / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if "lm_head" in name}, file)
    with pytest.raises(errors.Incompatible, match="does not support whole modules"):
        vllm.export_vllm(adapter, None, tmp_path / "out", PEFTParameters())
