"""Base models, loaded frozen and in evaluation mode, without running their code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from finch_hub import errors
from finch_hub.engine.bases import base as base_module
from finch_hub.engine.bases.base import Base, load_base

IDS = torch.arange(5, 45).reshape(2, 20)


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


def load(folder: Path, **options: Any) -> Base:
    return load_base(folder, **{"device": "cpu", "dtype": "float32", "cache": folder.parent, **options})


def test_loaded_base_is_frozen_and_evaluating(tiny_bases: Base) -> None:
    assert not any(parameter.requires_grad for parameter in tiny_bases.model.parameters())
    assert not any(module.training for module in tiny_bases.model.modules())
    assert tiny_bases.tokenizer.pad_token is not None
    assert tiny_bases.num_parameters == tiny_bases.model.num_parameters()
    assert tiny_bases.context == 512


def test_folder_as_publishers_leave_it_is_loaded_as_in_transformers(copy: Path) -> None:
    """Code that is named and missing, no generation configuration, and files of other tokenizers."""
    expected = transformers.AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32).eval()
    (copy / "generation_config.json").unlink()
    rewrite(copy / "config.json", auto_map={"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"})
    rewrite(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    for name in ("tokenizer.model", "vocab.json", "merges.txt"):
        (copy / name).write_bytes(b"of another tokenizer")
    base = load(copy)
    with torch.no_grad():
        torch.testing.assert_close(base.model(IDS).logits, expected(IDS).logits)
    assert base.tokenizer.decode(base.tokenizer("A finch eats.")["input_ids"]) == "A finch eats."


HOSTILE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "pattern": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    },
    "no unknown token": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}},
    "token without embedding": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<q>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<q>": {"id": "<q>", "ids": [10**9], "tokens": ["<q>"]}},
        }
    },
}


@pytest.mark.parametrize("what", HOSTILE_TOKENIZERS)
def test_tokenizer_that_fails_or_gives_other_tokens_is_refused(copy: Path, what: str) -> None:
    rewrite(copy / "tokenizer.json", **HOSTILE_TOKENIZERS[what])
    with pytest.raises(errors.Incompatible, match="its tokenizer"):
        load(copy)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "model.safetensors"])
def test_base_that_changes_while_it_is_read_is_refused(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would have the fingerprint of other files than those in memory."""
    read = base_module._read

    def read_and_change(*arguments: Any) -> Any:
        found = read(*arguments)
        changed = (copy / name).read_bytes()
        (copy / name).write_bytes(changed[:-9] + b" " * 8 + changed[-1:])
        return found

    monkeypatch.setattr(base_module, "_read", read_and_change)
    with pytest.raises(errors.Incompatible, match="was changed while it was read"):
        load(copy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_uses_the_requested_dtype(copy: Path, dtype: Any) -> None:
    base = load(copy, dtype=dtype)
    assert base.dtype == getattr(torch, dtype) == base.model.dtype


@pytest.mark.parametrize("dtype", ["float16", "int8", "nf4", "float8"])
def test_dtypes_that_this_machine_lacks_are_refused(dtype: Any, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="dtype"):
        load(tiny_folder, dtype=dtype)


def test_unknown_devices_are_refused(tiny_folder: Path) -> None:
    for device in ("cuda:77", "abacus"):
        with pytest.raises(errors.InvalidSpec, match="has no device"):
            load(tiny_folder, device=device)


def test_attention_follows_the_length(tiny_base: Base) -> None:
    before = tiny_base.model(IDS).logits
    assert tiny_base.model.config._attn_implementation == "eager"
    tiny_base.fit_attention(5000)
    assert tiny_base.model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(tiny_base.model(IDS).logits, before)
    tiny_base.fit_attention(100)
    assert tiny_base.model.config._attn_implementation == "eager"


def test_code_of_a_model_is_not_run(copy: Path) -> None:
    rewrite(
        copy / "config.json",
        model_type="strange",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    ran = copy / "ran"
    (copy / "code.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    with pytest.raises(errors.Incompatible, match="never executed"):
        load(copy)
    assert not ran.exists()


def test_missing_padding_token_becomes_the_end_token(copy: Path) -> None:
    rewrite(copy / "tokenizer_config.json", pad_token=None)
    base = load(copy)
    assert base.tokenizer.pad_token == base.tokenizer.eos_token


def test_tokenizer_larger_than_the_embeddings_is_refused(copy: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["brand", "new"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(errors.Incompatible, match="450 tokens, the model 448 embeddings"):
        load(copy)


def test_missing_and_misshapen_weights_are_refused(copy: Path) -> None:
    rewrite(copy / "config.json", num_hidden_layers=3)
    with pytest.raises(errors.Incompatible, match="missing"):
        load(copy)
    rewrite(copy / "config.json", num_hidden_layers=2, intermediate_size=128)
    with pytest.raises(errors.Incompatible):
        load(copy)


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(errors.Incompatible, match="its tensors end at byte"):
        load(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{bad"),
        ("tokenizer.json", '{"model": 5}'),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}'),
    ],
)
def test_damaged_files_are_a_problem_of_the_base(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(errors.Incompatible, match="transformers cannot load it"):
        load_base(copy, device="cpu")


def test_load_writes_nothing_to_the_terminal(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    load(tiny_folder)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
