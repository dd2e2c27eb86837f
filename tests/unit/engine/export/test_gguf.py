"""Export to GGUF, checked by the logits of a GGUF base with the exported update added.

A test that only reads the export back would accept any order of the rows of q and k. A base with llama.cpp's order does
not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import TEXTS, VARIANTS, logits, save_adapter
from support.gguf_files import save_gguf
from support.models import ARCHITECTURES, save_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from finch_hub import errors
from finch_hub.engine.export import gguf
from finch_hub.engine.export.parameters import GGUFParameters

PLAIN = [name for name in VARIANTS if name != "dora"]


def updates(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each tensor's update in llama.cpp: ``alpha / rank * b @ a``."""
    reader = gguf_package.GGUFReader(file)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    alpha = reader.get_field("adapter.lora.alpha").contents()
    for name in tensors:
        if name.endswith(".lora_a"):
            a, b = tensors[name], tensors[name.removesuffix("a") + "b"]
            yield name.removesuffix(".lora_a"), alpha / a.shape[0] * b.astype(np.float32) @ a.astype(np.float32)


def applied(base: Path, adapter: Path, folder: Path, *, swap: bool = False) -> list[torch.Tensor]:
    """Return the logits of the base's GGUF with the updates added; `swap` undoes the order of the rows of q and k."""
    folder.mkdir()
    save_gguf(base, folder / "model.gguf")
    tensors = {tensor.name: tensor.data for tensor in gguf_package.GGUFReader(folder / "model.gguf", "r+").tensors}
    for name, update in updates(adapter):
        if swap and ("attn_q" in name or "attn_k" in name):
            heads = update.shape[0] // 16
            update = update[np.argsort(gguf.row_order(len(update), heads))]
        tensors[name] += update
    del tensors  # the mapped file is written back
    # transformers does not read the width of a head from a GGUF file.
    config = AutoConfig.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", config=config, dtype=torch.float32)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.inference_mode():
        return [model(tokenizer(text, return_tensors="pt").input_ids).logits[0] for text in TEXTS]


def distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("variant", PLAIN)
def test_exported_update_gives_the_same_logits_in_a_gguf_base(tiny_folders: Path, tmp_path: Path, variant: str) -> None:
    adapter = save_adapter(tiny_folders, tmp_path / "adapter", **VARIANTS[variant])
    report = gguf.export_gguf(adapter, tiny_folders, tmp_path / "out", GGUFParameters())
    expected = logits(tiny_folders, [adapter])
    assert distance(logits(tiny_folders), expected) > 0.1
    assert distance(applied(tiny_folders, Path(report["file"]), tmp_path / "model"), expected) < 2e-4


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_missing_reordering_changes_the_logits(tmp_path: Path, kv_heads: int) -> None:
    """With the rows of q and k in transformers' order, the logits differ."""
    architecture = next(a for a in ARCHITECTURES if a.family == "llama" and a.kv_heads == kv_heads)
    base = save_model(architecture, tmp_path / "base")
    targets = {"q_proj": ["q_proj"], "k_proj": ["k_proj"]}
    for name, modules in targets.items():
        adapter = save_adapter(base, tmp_path / name, r=4, lora_alpha=8, target_modules=modules)
        report = gguf.export_gguf(adapter, base, tmp_path / f"{name}-out", GGUFParameters())
        expected = logits(base, [adapter])
        assert distance(applied(base, Path(report["file"]), tmp_path / f"{name}-right"), expected) < 2e-4
        assert distance(applied(base, Path(report["file"]), tmp_path / f"{name}-wrong", swap=True), expected) > 0.05


def test_metadata_and_shapes_are_those_of_llama_cpp(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])
    gguf.export_gguf(adapter, tiny_folder, tmp_path / "out", GGUFParameters(name="finches"))
    reader = gguf_package.GGUFReader(tmp_path / "out/adapter.gguf")
    fields = {name: reader.get_field(name).contents() for name in reader.fields if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "finches",
        "adapter.type": "lora",
        "adapter.lora.alpha": 7.0,
    }
    assert reader.fields["adapter.lora.alpha"].types == [gguf_package.GGUFValueType.FLOAT32]
    shapes = {tensor.name: tensor.data.shape for tensor in reader.tensors}
    assert len(shapes) == 16
    assert shapes["blk.0.attn_k.weight.lora_a"] == (2, 64)
    assert shapes["blk.0.attn_k.weight.lora_b"] == (32, 2)
    assert shapes["blk.1.attn_v.weight.lora_a"] == (7, 64)


def test_half_precision_halves_the_size_and_stays_near(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    full = gguf.export_gguf(adapter, tiny_folder, tmp_path / "full", GGUFParameters())
    half = gguf.export_gguf(adapter, tiny_folder, tmp_path / "half", GGUFParameters(dtype="f16"))
    assert half["bytes"] < 0.6 * full["bytes"]
    exact = dict(updates(Path(full["file"])))
    for name, update in updates(Path(half["file"])):
        np.testing.assert_allclose(update, exact[name], atol=2e-3 * np.abs(exact[name]).max())


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (VARIANTS["dora"], "DoRA magnitudes"),
        ({"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "does not support whole modules"),
        ({"r": 4, "target_modules": ["q_proj"], "bias": "lora_only"}, "trained biases"),
        ({"r": 4, "target_modules": ["embed_tokens"]}, "embeddings"),
    ],
)
def test_unsupported_adapter_is_refused_and_leaves_nothing(tmp_path: Path, config: dict[str, Any], what: str) -> None:
    base = save_model(next(a for a in ARCHITECTURES if a.family == "qwen2"), tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    with pytest.raises(errors.Incompatible, match=what):
        gguf.export_gguf(adapter, base, tmp_path / "out", GGUFParameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_tied_head_and_base_that_does_not_fit_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    tied = save_model(next(a for a in ARCHITECTURES if a.family == "llama" and a.tied), tmp_path / "tied")
    adapter = save_adapter(tied, tmp_path / "head", r=4, target_modules=["lm_head"])
    (adapter / "adapter_model.safetensors").rename(tmp_path / "all")
    _keep_only_lora(tmp_path / "all", adapter / "adapter_model.safetensors")
    with pytest.raises(errors.Incompatible, match="ties its head"):
        gguf.export_gguf(adapter, tied, tmp_path / "out", GGUFParameters())
    narrow = save_adapter(tied, tmp_path / "k", r=4, target_modules=["k_proj"])
    with pytest.raises(errors.Incompatible, match="merging into"):
        gguf.export_gguf(narrow, tiny_folder, tmp_path / "out", GGUFParameters())
    with pytest.raises(errors.Incompatible, match="needs its base"):
        gguf.export_gguf(narrow, None, tmp_path / "out", GGUFParameters())


def _keep_only_lora(source: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: t for name, t in load_file(source).items() if "lora_" in name}, target)


def test_mistral_is_written_as_llama(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    text = (base / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "mistral"')
    (base / "config.json").write_text(text)
    files = [
        Path(gguf.export_gguf(adapter, folder, tmp_path / f"{number}", GGUFParameters())["file"])
        for number, folder in enumerate((base, tiny_folder))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_unknown_architecture_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    text = (base / "config.json").read_text()
    (base / "config.json").write_text(text.replace('"model_type": "llama"', '"model_type": "starling"'))
    with pytest.raises(errors.Incompatible, match=r"'starling' are not known, only of llama, mistral"):
        gguf.export_gguf(adapter, base, tmp_path / "out", GGUFParameters())


def test_weights_too_large_for_half_precision_are_refused_by_the_adapters_name(
    tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "0a1b2c", **VARIANTS["plain"])
    (adapter / "finch.json").write_text('{"name": "legal"}')
    written = gguf.export_gguf(adapter, tiny_folder, tmp_path / "named", GGUFParameters())
    assert gguf_package.GGUFReader(written["file"]).get_field("general.name").contents() == "legal"
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor * 1e6 for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(errors.Incompatible, match=r"legal: .*too large for f16.*f32"):
        gguf.export_gguf(adapter, tiny_folder, tmp_path / "half", GGUFParameters(dtype="f16"))
    assert not (tmp_path / "half").exists()
