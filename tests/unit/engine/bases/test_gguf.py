"""GGUF bases are converted once, whole or not at all, and mean the same model."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.gguf_files import save_gguf
from support.models import DEFAULT, save_model

from finch_hub import errors
from finch_hub.engine.bases import gguf, sources
from finch_hub.engine.bases.loading import load_base

IDS = torch.arange(5, 45).reshape(2, 20)


def test_converted_model_is_the_one_the_file_was_made_from(tiny_folders: Path, tmp_path: Path) -> None:
    file = save_gguf(tiny_folders, tmp_path / "model.gguf", kind="F32")
    original = load_base(tiny_folders, dtype="float32", device="cpu", cache=tmp_path)
    converted = load_base(file, dtype="float32", device="cpu", cache=tmp_path)
    torch.testing.assert_close(converted.model(IDS).logits, original.model(IDS).logits, rtol=1e-5, atol=1e-5)
    text = "What does a finch eat?<|im_end|>\n"
    assert converted.tokenizer(text)["input_ids"] == original.tokenizer(text)["input_ids"]
    assert converted.tokenizer.chat_template == original.tokenizer.chat_template
    assert converted.tokenizer.eos_token_id == original.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.bfloat16)],
)
def test_unquantised_matrices_keep_their_bits(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    stored = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "float32"}[kind]
    source = save_model(DEFAULT, tmp_path / "base", dtype="float32")
    file = save_gguf(source, tmp_path / "model.gguf", kind=kind)  # type: ignore[arg-type]
    folder = sources.resolve(file, cache=tmp_path / "cache")
    before = load_file(source / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    assert after[name].dtype == dtype
    if kind == "Q8_0":
        torch.testing.assert_close(after[name].float(), before[name], rtol=0.02, atol=0.005)
    else:
        assert torch.equal(after[name], before[name].to(getattr(torch, stored)))
    assert "quantization_config" not in json.loads((folder / "config.json").read_bytes())


def test_a_second_use_converts_nothing(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    said: list[str] = []
    capfd.readouterr()
    first = sources.resolve(file, cache=tmp_path / "cache", progress=said.append)
    assert "".join(capfd.readouterr()) == ""  # progress goes where it was asked to
    moved = file.rename(tmp_path / "renamed.gguf")
    assert sources.resolve(moved, cache=tmp_path / "cache", progress=said.append) == first
    assert len(said) == 1


def test_of_two_at_once_one_converts(tiny_folder: Path, tmp_path: Path) -> None:
    # Threads stand for processes: each opens the lock file itself, so the operating system keeps them apart alike.
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    said: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(gguf.convert_once, file, cache=tmp_path / "cache", progress=said.append) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert len(said) == 1


def test_what_a_dead_process_left_is_replaced(tiny_folder: Path, tmp_path: Path) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    cache = tmp_path / "cache"
    folder = sources.resolve(file, cache=cache)
    partial = folder.rename(folder.with_suffix(".partial"))
    (partial / "model.safetensors").write_bytes(b"half")
    again = sources.resolve(file, cache=cache)
    assert again == folder
    assert not partial.exists()
    assert load_file(again / "model.safetensors")


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(errors.Incompatible, match="is no GGUF file"):
        sources.resolve(file, cache=tmp_path)
    with pytest.raises(errors.NotFound, match=r"did you mean .*model\.gguf"):
        sources.resolve(tmp_path / "modle.gguf", cache=tmp_path)


def test_a_damaged_file_is_refused_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(errors.Incompatible, match="cannot read this GGUF"):
        sources.resolve(file, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
