"""GGUF files, converted once, whole or not at all, to the same model."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.gguf_files import save_gguf, set_number
from support.models import DEFAULT, save_model

from finch_hub import errors
from finch_hub.engine.bases import gguf, sources
from finch_hub.engine.bases.base import load_base
from finch_hub.formats import parsing_process
from finch_hub.progress import Advance
from finch_hub.specs.jobs import BaseModelSource

IDS = torch.arange(5, 45).reshape(2, 20)


def fetch(file: Path, cache: Path, **options: Any) -> Path:
    return sources.fetch_base(BaseModelSource(source=str(file)), cache=cache, **options)


@pytest.mark.usefixtures("parsing_here")
def test_converted_model_computes_the_logits_of_its_source(tiny_folders: Path, tmp_path: Path) -> None:
    file = save_gguf(tiny_folders, tmp_path / "model.gguf", kind="F32")
    original = load_base(tiny_folders, dtype="float32", device="cpu", cache=tmp_path)
    converted = load_base(file, dtype="float32", device="cpu", cache=tmp_path)
    torch.testing.assert_close(converted.model(IDS).logits, original.model(IDS).logits, rtol=1e-5, atol=1e-5)
    text = "What does a finch eat?<|im_end|>\n"
    assert converted.tokenizer(text)["input_ids"] == original.tokenizer(text)["input_ids"]
    assert converted.tokenizer.chat_template == original.tokenizer.chat_template
    assert converted.tokenizer.eos_token_id == original.tokenizer.eos_token_id


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.bfloat16)],
)
def test_conversion_keeps_bits_without_quantization(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    stored = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "float32"}[kind]
    source = save_model(DEFAULT, tmp_path / "base", dtype="float32")
    file = save_gguf(source, tmp_path / "model.gguf", kind=kind)  # type: ignore[arg-type]
    folder = fetch(file, tmp_path / "cache")
    before = load_file(source / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    assert after[name].dtype == dtype
    if kind == "Q8_0":
        torch.testing.assert_close(after[name].float(), before[name], rtol=0.02, atol=0.005)
    else:
        assert torch.equal(after[name], before[name].to(getattr(torch, stored)))
    assert "quantization_config" not in json.loads((folder / "config.json").read_bytes())


def test_second_use_converts_nothing(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    said: list[str] = []
    capfd.readouterr()
    first = fetch(file, tmp_path / "cache", progress=said.append)
    assert "".join(capfd.readouterr()) == ""  # progress goes to the callback only
    moved = file.rename(tmp_path / "renamed.gguf")
    assert fetch(moved, tmp_path / "cache", progress=said.append) == first
    assert len(said) == 1


def test_conversion_tells_its_tensors(tiny_folder: Path, tmp_path: Path, told: list[Advance]) -> None:
    """They are read from the bar that transformers draws, which could look different in another version."""
    fetch(save_gguf(tiny_folder, tmp_path / "model.gguf"), tmp_path / "cache")
    *_, last = (advance for advance in told if advance.work == "converting tensors")
    assert last.done == last.total != 0


def test_file_that_changes_while_it_is_converted_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next conversion of the first file would find the folder of another one."""
    file = save_gguf(tiny_folder, tmp_path / "tiny.gguf")
    parse = parsing_process.parse

    def change_and_parse(*arguments: Any, **options: Any) -> Any:
        content = bytearray(file.read_bytes())
        content[-4:] = bytes(4)
        file.write_bytes(content)
        return parse(*arguments, **options)

    monkeypatch.setattr(gguf, "parse", change_and_parse)
    with pytest.raises(errors.Incompatible, match="was changed while it was read"):
        gguf.convert_once(file, cache=tmp_path / "cache", progress=lambda _: None)
    assert list((tmp_path / "cache").glob("gguf-*[0-9a-f]")) == []


@pytest.mark.usefixtures("parsing_here")
def test_one_of_two_simultaneous_uses_converts(tiny_folder: Path, tmp_path: Path) -> None:
    # Threads stand for processes: each opens the lock file itself, so the lock separates them too.
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    said: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(gguf.convert_once, file, cache=tmp_path / "cache", progress=said.append) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert len(said) == 1


@pytest.mark.usefixtures("parsing_here")
def test_conversion_replaces_what_a_dead_process_left(tiny_folder: Path, tmp_path: Path) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    cache = tmp_path / "cache"
    folder = fetch(file, cache)
    partial = folder.rename(folder.with_name(f".{folder.name}.01234567.part"))
    (partial / "model.safetensors").write_bytes(b"half")
    again = fetch(file, cache)
    assert again == folder
    assert not partial.exists()
    assert load_file(again / "model.safetensors")


def test_file_that_is_not_a_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(errors.Incompatible, match="is not a GGUF file"):
        fetch(file, tmp_path)
    with pytest.raises(errors.NotFound, match=r"did you mean .*model\.gguf"):
        fetch(tmp_path / "modle.gguf", tmp_path)


def test_damaged_file_is_refused_and_leaves_no_folder(tiny_folder: Path, tmp_path: Path) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    content = file.read_bytes()
    file.write_bytes(content[:3000])
    with pytest.raises(errors.Incompatible, match="ends within its header"):
        fetch(file, tmp_path / "cache")
    file.write_bytes(content.replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergex"))
    with pytest.raises(errors.Incompatible, match="cannot read this GGUF: KeyError"):
        fetch(file, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ],
)
def test_file_that_lacks_a_tensor_is_refused(tiny_folder: Path, tmp_path: Path, tensor: str, named: str) -> None:
    """transformers would give it random values."""
    file = save_gguf(tiny_folder, tmp_path / "model.gguf", without=tensor)
    with pytest.raises(errors.Incompatible, match=f"has no tensors for {named}"):
        fetch(file, tmp_path / "cache")


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize(
    ("field", "number", "kind"),
    [
        ("attention.head_count", 0, 4),
        ("attention.head_count", 7, 4),
        ("attention.key_length", 0, 4),
        ("embedding_length", 0, 4),
        ("feed_forward_length", 3, 4),
        ("rope.freq_base", 0x7FC00000, 6),
        ("context_length", 0x7FC00000, 6),
    ],
)
def test_file_whose_fields_are_impossible_is_refused(
    tiny_folder: Path, tmp_path: Path, field: str, number: int, kind: int
) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    set_number(file, f".{field}", number, kind)
    with pytest.raises(errors.Incompatible):
        fetch(file, tmp_path / "cache")


@pytest.mark.parametrize(("field", "number"), [("embedding_length", 2**31), ("vocab_size", 2**31 - 1)])
def test_file_whose_fields_are_too_large_is_refused(tiny_folder: Path, tmp_path: Path, field: str, number: int) -> None:
    file = save_gguf(tiny_folder, tmp_path / "model.gguf")
    set_number(file, f".{field}", number, 4)
    with pytest.raises(errors.Incompatible):
        fetch(file, tmp_path / "cache")
