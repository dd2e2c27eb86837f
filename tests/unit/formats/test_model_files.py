"""Folders of base models; damaged and sharded ones are tested by merging and by the sources of bases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from finch_hub import errors
from finch_hub.engine.bases.layout_builder import describe_model
from finch_hub.formats.model_files import ModelFiles, check_number_of_layers, read_shapes, weight_files


def save(folder: Path, names: Iterable[str], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: np.ones((2, 2), np.float32) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("names", "name", "found"),
    [
        (["model.q.weight"], "model.q.weight", "model.q.weight"),
        (["q.weight"], "model.q.weight", "q.weight"),
        (["language_model.model.q.weight"], "model.q.weight", "language_model.model.q.weight"),
        (["a.q.weight", "b.q.weight"], "q.weight", None),
        (["model.k.weight"], "model.q.weight", None),
    ],
)
def test_tensor_is_found_by_its_only_name_that_fits(
    tmp_path: Path, names: list[str], name: str, found: str | None
) -> None:
    with ModelFiles(save(tmp_path, names)) as files:
        assert files.find(name) == found


@pytest.mark.parametrize(
    ("names", "config", "is_tied"),
    [
        (["embed_tokens.weight"], {}, True),
        (["embed_tokens.weight", "lm_head.weight"], {}, False),
        (["embed_tokens.weight", "lm_head.weight"], {"tie_word_embeddings": True}, True),
    ],
)
def test_head_is_tied_by_the_config_or_else_if_it_has_no_tensor(
    tmp_path: Path, names: list[str], config: dict[str, object], is_tied: bool
) -> None:
    with ModelFiles(save(tmp_path, names, **config)) as files:
        assert files.is_tied == is_tied
        assert files.embedding == "embed_tokens.weight"


def test_quantized_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.Incompatible, match="stored as gptq"):
        ModelFiles(save(tmp_path, ["q.weight"], quantization_config={"quant_method": "gptq"}))


def test_companions_are_data_without_weights_code_and_records(tmp_path: Path) -> None:
    save(tmp_path, ["q.weight"])
    for name in ("tokenizer.json", "LICENSE.md", "finch.json", "adapter_config.json", "modeling.py", "README.md"):
        (tmp_path / name).write_text("{}")
    with ModelFiles(tmp_path) as files:
        assert [str(path) for path in files.companions()] == ["LICENSE.md", "config.json", "tokenizer.json"]


def test_the_single_file_is_preferred_to_shards_as_in_transformers(tmp_path: Path) -> None:
    save(tmp_path, ["q.weight"])
    save_file({"k.weight": np.ones((3, 3), np.float32)}, tmp_path / "part.safetensors")
    save_file({"ema.weight": np.ones((4, 4), np.float32)}, tmp_path / "ema.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"k.weight": "part.safetensors"}}')
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert read_shapes(tmp_path) == {"q.weight": (2, 2)}
    (tmp_path / "model.safetensors").unlink()
    assert weight_files(tmp_path) == [tmp_path / "part.safetensors"]
    assert read_shapes(tmp_path) == {"k.weight": (3, 3)}
    (tmp_path / "model.safetensors.index.json").unlink()
    assert weight_files(tmp_path) == []


@pytest.mark.parametrize("model_type", ["gpt2", "openai-gpt", "gpt_neo", "gptj", "llama"])
def test_families_with_conv1d_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(model_type)
        layout = describe_model(transformers.AutoModelForCausalLM.from_config(config), name=model_type)
    config.save_pretrained(tmp_path)
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    with ModelFiles(tmp_path) as files:
        assert files.has_conv1d == bool(layout.transposed)


@pytest.mark.parametrize(
    "config", [{"num_hidden_layers": 10**9}, {"n_layer": 1e300}, {"text_config": {"num_layers": 2}}]
)
def test_more_layers_than_tensors_are_refused(tmp_path: Path, config: dict[str, object]) -> None:
    check_number_of_layers(save(tmp_path / "one", ["q.weight"], num_hidden_layers=1, n_layer="x"))
    with pytest.raises(errors.InvalidInput, match="but the weights have 1 tensors"):
        check_number_of_layers(save(tmp_path / "many", ["q.weight"], **config))
