"""Adapters read from and written to PEFT's files: nothing pickled, and the same bytes every time."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from support.adapters import VARIANTS, save_adapter
from support.safetensors_files import adapter_folder

from finch_hub import errors
from finch_hub.engine.adapters.adapter_files import read_adapter, to_bytes, write_adapter
from finch_hub.engine.export import quantization
from finch_hub.formats.peft_names import WEIGHTS


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])


@pytest.mark.parametrize("name", ["folder", "one.safetensors"])
def test_read_returns_what_was_written(folder: Path, tmp_path: Path, name: str) -> None:
    before = read_adapter(folder)
    write_adapter(before, tmp_path / "deep" / name)
    after = read_adapter(tmp_path / "deep" / name)
    assert after.config == before.config
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[key], before.tensors[key]) for key in before.tensors)
    assert sorted(path.name for path in (tmp_path / "deep").rglob("*") if path.name.startswith(".")) == []


def test_read_keeps_the_dtype(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "adapter", bf16=True, **VARIANTS["plain"])
    assert {tensor.dtype for tensor in read_adapter(folder).tensors.values()} == {torch.bfloat16}


def test_write_gives_the_same_bytes_in_every_process(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from finch_hub.engine.adapters import adapter_files; "
        "adapter_files.write_adapter(adapter_files.read_adapter(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    # The library orders metadata by a hash with another seed in each process and map.
    for number in range(2):
        subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / f"{number}.safetensors")], check=True)
    written = {(tmp_path / f"{number}.safetensors").read_bytes() for number in range(2)}
    held = read_adapter(folder)
    written |= {to_bytes(held.tensors, {f"key {n}": "" for n in order}) for order in ((0, 1, 2), (2, 1, 0))}
    assert len(written) == 2


def test_single_file_has_the_configuration_in_its_metadata(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "physics.safetensors"
    write_adapter(read_adapter(folder), file)
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["adapter_config"])["peft_type"] == "LORA"
        assert len(list(opened.keys())) == 16


def test_read_of_a_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    for path in (folder, folder / "adapter_model.bin", tmp_path / "adapter.pt"):
        with pytest.raises(errors.RefusedArtifact, match="pickled weights can run code"):
            read_adapter(path)


def test_read_of_a_missing_file_offers_near_names(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"did you mean .*/adapter'"):
        read_adapter(tmp_path / "adaptor.safetensors")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(errors.RefusedArtifact, match=r"adapter_config\.json"):
        read_adapter(folder)


def test_read_of_a_damaged_file_is_refused(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(errors.RefusedArtifact, match="cannot be read"):
        read_adapter(folder)


def test_read_of_files_that_cannot_be_opened_is_refused(folder: Path) -> None:
    """A limit of open files also holds for root, unlike permissions."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(errors.RefusedArtifact, match="cannot be read"):
            read_adapter(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("path", ["n" * 300, "n" * 300 + "/adapter.safetensors"])
def test_read_of_a_name_that_no_file_system_takes_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(errors.RefusedArtifact, match="cannot be read"):
        read_adapter(tmp_path / path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"peft_type": "IA3"}, "'IA3', not 'LORA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: is 'pissa', which changes the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: is 'olora'"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens: is"),
        ({"layer_replication": [[0, 1]]}, "layer_replication: is"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora: is"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters: is"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices: is"),
        ({"gate_function": "tanh"}, "gate_function: is unknown, and may change"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "file", "quantized"])
def test_read_of_an_adapter_with_other_arithmetic_is_refused(
    folder: Path, tmp_path: Path, form: str, fields: dict[str, Any], says: str
) -> None:
    path = folder
    if form == "quantized":
        path = tmp_path / "packed"
        quantization.quantize(folder, path, scheme="int8")
    config = json.loads((path / "adapter_config.json").read_text()) | fields
    if form == "file":
        path = tmp_path / "one.safetensors"
        held = read_adapter(folder)
        path.write_bytes(to_bytes(held.tensors, {"adapter_config": json.dumps(config)}))
    else:
        (path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(errors.RefusedArtifact, match=re.escape(says)):
        read_adapter(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_to_save": ["("]},
        {"modules_to_save": 5},
        {"layers_to_transform": [0], "layers_pattern": ["("]},
        {"layers_to_transform": [[0]]},
        {"exclude_modules": "("},
        {"exclude_modules": 5},
        {"target_modules": "("},
        {"target_modules": [["q_proj"]]},
        {"rank_pattern": {"(": 4}},
        {"rank_pattern": {"q_proj": 0}},
        {"alpha_pattern": {"q_proj": "x"}},
    ],
    ids=str,
)
def test_read_of_a_malformed_field_is_refused_by_name(folder: Path, fields: dict[str, Any]) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(errors.RefusedArtifact, match=str([*fields][-1])):
        read_adapter(folder)


def test_expression_that_could_take_very_long_is_not_evaluated(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": "(.*)*(.*)*x"}))
    assert read_adapter(folder).config["target_modules"] is None


def test_read_restores_a_quantized_adapter(folder: Path, tmp_path: Path) -> None:
    before = read_adapter(folder).modules
    quantization.quantize(folder, tmp_path / "packed", scheme="int8")
    with safe_open(tmp_path / "packed" / "adapter_model.safetensors", framework="pt") as opened:
        assert "finch_quantization" in opened.metadata()
    after = read_adapter(tmp_path / "packed").modules
    assert after.keys() == before.keys()
    for path, module in before.items():
        update = after[path].scale * after[path].B @ after[path].A
        wanted = module.scale * module.B @ module.A
        assert torch.linalg.norm(update - wanted) < 0.02 * torch.linalg.norm(wanted)


def test_bytes_are_read_by_the_safetensors_library(folder: Path) -> None:
    tensors = read_adapter(folder).tensors
    again = safetensors.torch.load(to_bytes(tensors, {"b": "1", "a": "2"}))
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_file_in_a_folder_of_peft_names_the_folder(tmp_path: Path, name: str) -> None:
    folder = adapter_folder(tmp_path / "birds")
    assert read_adapter(folder / name).config == read_adapter(folder).config


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("birds.gguf", "is a GGUF adapter.*use the PEFT folder"),
        ("BIRDS.GGUF", "is a GGUF adapter"),
        *(
            (f"birds.{suffix}", "is an archive.*unpack it")
            for suffix in ("tar.gz", "zip", "txz", "safetensors.gz", "7z")
        ),
        ("BIRDS.ZIP", "is an archive"),
        ("birds.bin", "is not a safetensors file.*save the adapter with safetensors"),
    ],
)
def test_file_of_another_form_is_refused_with_what_to_do(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(errors.RefusedArtifact, match=says):
        read_adapter(tmp_path / name)


def test_pointer_of_git_lfs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "birds")
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(errors.RefusedArtifact, match=r"pointer of Git LFS.*git lfs pull"):
        read_adapter(folder)
