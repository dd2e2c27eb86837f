"""Modules of a base, compared with the loaded model and with those that PEFT picks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from safetensors.torch import load_file, save_file
from support.families import FAMILIES, Family, make_model, named, save_family

from finch_hub import errors
from finch_hub.engine.bases import module_layout, target_modules
from finch_hub.engine.bases.layout_builder import build_layout, describe_model
from finch_hub.engine.bases.module_layout import PLAIN_FAMILIES, read_layout
from finch_hub.formats.parsing_process import Limits
from finch_hub.specs.lora import LoRAConfig

PREFIXES = {"llama": "model.", "gpt2": "transformer."}  # both are checkpoints of a model without its head


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_layout_without_weights_equals_that_of_the_model(family: Family, is_tied: bool, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path, tie_word_embeddings=is_tied)
    model = make_model(family, tie_word_embeddings=is_tied)
    assert build_layout(folder, name="base") == describe_model(model, name="base")
    if model.config.model_type in PLAIN_FAMILIES:
        assert replace(read_layout(folder, name="base"), folder=None) == describe_model(model, name="base")


def test_every_plain_family_is_compared_with_transformers() -> None:
    assert {make_model(family).config.model_type for family in FAMILIES} >= PLAIN_FAMILIES


DENSE = [family for family in FAMILIES if family.name != "qwen3-moe"]


@pytest.mark.parametrize("family", DENSE, ids=lambda family: family.name)
def test_all_linear_picks_what_peft_picks(family: Family) -> None:
    model = make_model(family)
    layout = describe_model(model, name="")
    theirs = _maybe_include_all_linear_layers(peft.LoraConfig(target_modules="all-linear"), model).target_modules
    excluded = ("out_proj",) if family.name == "falcon-h1" else ()
    chosen = target_modules.match(LoRAConfig(target_modules="all-linear", exclude_modules=excluded), layout)
    assert set(chosen) == {path for path in theirs if not path.endswith(excluded or ("?",))}


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_all_linear_of_experts_is_refused_since_peft_adapts_them_too() -> None:
    config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(make_model(named("qwen3-moe")), config).peft_config["default"]
    layout = describe_model(make_model(named("qwen3-moe")), name="")
    assert {name.rsplit(".", 1)[1] for name in layout.fused} <= set(theirs.target_parameters)
    with pytest.raises(errors.InvalidSpec, match="'all-linear' includes experts"):
        target_modules.match(LoRAConfig(target_modules="all-linear"), layout)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("GraniteMoe", {"num_local_experts": 4}, True),
        ("Mixtral", {"num_local_experts": 4}, True),
        ("Mamba", {"state_size": 4}, False),  # its convolution has three dimensions, too
    ],
)
def test_fused_parameters_are_found_by_their_modules(kind: str, fields: dict[str, Any], expected: bool) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32}
    with torch.device("meta"):
        config = getattr(transformers, f"{kind}Config")(**size, **heads, **fields)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    assert bool(describe_model(model, name="").fused) is expected


@pytest.mark.parametrize("family", [named("llama"), named("gpt2")], ids=lambda family: family.name)
def test_attached_adapters_do_not_change_the_layout(family: Family) -> None:
    model = make_model(family)
    plain = describe_model(model, name="")
    config = peft.LoraConfig(target_modules=list(plain.inner_linear), fan_in_fan_out=bool(plain.transposed))
    for adapter in ("first", "second"):
        peft.tuners.lora.LoraModel(model, config, adapter)
        del model.peft_config
    found = describe_model(model, name="")
    assert found == plain
    assert list(found.linear) == list(plain.linear)


@pytest.mark.parametrize("name", ["qwen3-moe"])
def test_transformers_is_asked_once_in_a_process_of_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_family(named(name), tmp_path / "base")
    first = read_layout(folder, name="base", cache=tmp_path / "cache")
    assert first == replace(describe_model(make_model(named(name)), name="base"), folder=folder)
    monkeypatch.setattr(module_layout, "parse", lambda *args, **options: pytest.fail("asked again"))
    assert read_layout(folder, name="base", cache=tmp_path / "cache") == first


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_checkpoint_without_the_prefix_of_its_layers(name: str, tmp_path: Path) -> None:
    folder = save_family(named(name), tmp_path, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    bare = {key.removeprefix(PREFIXES[name]): tensor for key, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    found = read_layout(folder, name="base").linear
    assert found == describe_model(make_model(named(name), tie_word_embeddings=True), name="").linear


@pytest.mark.usefixtures("parsing_here")
def test_a_model_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = save_family(named("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    with pytest.raises(errors.Incompatible, match=r"base model birds: transformers cannot build it: .*unheard_of"):
        read_layout(folder, name="birds")


def test_config_of_a_billion_layers_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_layout, "_LIMITS", Limits(memory=2**27))
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1000000000, "n_embd": 8, "n_head": 1}')
    with pytest.raises(errors.Incompatible, match="takes more than 128 MiB of memory to read"):
        read_layout(folder, name="x")
