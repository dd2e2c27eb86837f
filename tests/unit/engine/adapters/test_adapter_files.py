"""Adapters read from and written to PEFT's files: nothing pickled, and the same bytes every time."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig
from safetensors import safe_open
from support.adapters import VARIANTS, save_adapter
from support.safetensors_files import adapter_folder

from finch_hub import errors
from finch_hub.artifacts.gate import admit_adapter
from finch_hub.engine.adapters.adapter_files import read_adapter, to_bytes, write_adapter
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.export import quantization
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.specs.lora import UnusualValueWarning


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
    with pytest.raises(errors.RefusedArtifact, match="its tensors end at byte"):
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
    weights = read_adapter(folder)
    assert weights.config["target_modules"] == sorted(weights.names)


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


_Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


def _edit(folder: Path, change: _Change) -> None:
    config = json.loads((folder / CONFIG).read_text())
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(config, tensors)
    (folder / CONFIG).write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


def _fill(value: float) -> _Change:
    return lambda config, tensors: next(iter(tensors.values())).view(-1)[-1:].fill_(value)


def _repeat(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name.replace(".weight", ".default.weight")] = tensors[name] + 1


def _convert(dtype: torch.dtype) -> _Change:
    def change(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        name = next(iter(tensors))
        tensors[name] = tensors[name].to(dtype)

    return change


REFUSED: dict[str, _Change] = {
    "DoRA without magnitudes": lambda config, tensors: config.update(use_dora=True),
    "magnitudes without DoRA": lambda config, tensors: tensors.update(
        {name.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(1) for name in [*tensors][:1]}
    ),
    "NaN": _fill(float("nan")),
    "infinity": _fill(float("inf")),
    "minus infinity": _fill(float("-inf")),
    "integers": _convert(torch.int8),
    "8-bit floats": _convert(torch.float8_e4m3fn),
    "tensor under two names": _repeat,
    "A without B": lambda config, tensors: tensors.pop(next(name for name in tensors if "lora_B" in name)),
    "other rank": lambda config, tensors: config.update(r=5, rank_pattern={}),
    "tensor that is not LoRA's": lambda config, tensors: tensors.update(
        {"base_model.model.model.norm.weight": torch.ones(2)}
    ),
    "name with odd characters": lambda config, tensors: tensors.update({"../x": torch.ones(2)}),
    "alpha 0": lambda config, tensors: config.update(lora_alpha=0),
    "alpha NaN": lambda config, tensors: config.update(lora_alpha=float("nan")),
    "alpha as text": lambda config, tensors: config.update(lora_alpha="8"),
    "list of ranks": lambda config, tensors: config.update(r=[4]),
    "dropout above 1": lambda config, tensors: config.update(lora_dropout=1.5),
    "no module": lambda config, tensors: config.update(target_modules=["absent"]),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_load_refuses_what_the_gate_refuses(folder: Path, tmp_path: Path, fault: str) -> None:
    _edit(folder, REFUSED[fault])
    with pytest.raises(errors.RefusedArtifact) as imported:
        admit_adapter(folder, tmp_path / "admitted")
    with pytest.raises(errors.RefusedArtifact) as loaded:
        read_adapter(folder)
    assert loaded.value.problems == imported.value.problems


def test_update_for_which_the_gate_quarantines_is_a_warning(folder: Path, tmp_path: Path) -> None:
    _edit(folder, lambda config, tensors: [tensor.fill_(10.0) for tensor in tensors.values()])
    reasons = admit_adapter(folder, tmp_path / "admitted").quarantine
    with pytest.warns(UnusualValueWarning) as warned:
        read_adapter(folder)
    assert [str(warning.message) for warning in warned] == [*reasons] != []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_large_finite_values_of_every_dtype_are_refused(folder: Path, dtype: torch.dtype) -> None:
    large = min(torch.finfo(dtype).max, 1e30)  # its square overflows float32
    filled = {
        name: torch.full_like(tensor, large, dtype=dtype) for name, tensor in read_adapter(folder).tensors.items()
    }
    safetensors.torch.save_file(filled, folder / WEIGHTS)
    message = "has values up to 1e.30" if large == 1e30 else "its factors or their product may reach"
    with pytest.raises(errors.RefusedArtifact, match=message):
        read_adapter(folder)


def test_tensors_get_the_names_that_peft_writes_today(folder: Path) -> None:
    names = [*read_adapter(folder).tensors]
    tensors = {name.replace(".weight", ".default.weight"): t for name, t in read_adapter(folder).tensors.items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    assert [*read_adapter(folder).tensors] == names


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_config_is_read_in_every_encoding_of_json(folder: Path, encoding: str) -> None:
    config = read_adapter(folder).config
    (folder / CONFIG).write_text(json.dumps(config), encoding=encoding)
    assert read_adapter(folder).config == config


def test_config_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b'{"r": "\xe9"}')
    with pytest.raises(errors.RefusedArtifact, match=r"adapter_config\.json: cannot be read: it is not text in UTF-8"):
        read_adapter(folder)


def test_file_without_a_config_is_refused_as_by_the_gate(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    for read in (read_adapter, lambda path: admit_adapter(path, tmp_path / "admitted")):
        with pytest.raises(errors.RefusedArtifact, match="has no config: its metadata have no 'adapter_config'"):
            read(tmp_path / "one.safetensors")


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "bias", "lora_dropout", "use_dora", "lora_alpha"])
def test_null_in_a_config_is_the_default(field: str, tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "in", **VARIANTS["plain"])
    config = json.loads((folder / "adapter_config.json").read_text())
    defaults = LoraConfig().to_dict()
    (folder / "adapter_config.json").write_text(json.dumps({**config, field: defaults[field]}))
    expected = read_adapter(folder)
    (folder / "adapter_config.json").write_text(json.dumps({**config, field: None}))
    found = read_adapter(folder)
    assert found.config[field] == expected.config[field]
    AttachableAdapter.load(folder, tiny_base).detach()


def test_folder_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"no adapter '.*nosuch'"):
        read_adapter(tmp_path / "nosuch")
