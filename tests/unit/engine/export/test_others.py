"""Exports to PEFT and Ollama, and merged models."""

from __future__ import annotations

from pathlib import Path

import gguf as gguf_package
import pytest
import torch
from safetensors.torch import load_file
from support.adapters import VARIANTS, logits, save_adapter

from finch_hub import errors
from finch_hub.engine.export import gguf, merged, ollama, peft, quantization
from finch_hub.engine.export.parameters import ExportParameters, GGUFParameters, MergedParameters, OllamaParameters


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_folder, tmp_path_factory.mktemp("adapter") / "finches", **VARIANTS["plain"])


def test_peft_export_keeps_the_bytes_of_the_weights(adapter: Path, tmp_path: Path) -> None:
    (adapter / "README.md").write_text("# card\n")
    report = peft.write(adapter, None, tmp_path / "out", ExportParameters())
    file = "adapter_model.safetensors"
    assert (tmp_path / "out" / file).read_bytes() == (adapter / file).read_bytes()
    assert (tmp_path / "out/README.md").read_text() == "# card\n"
    assert report == {"modules": 14, "bytes": (adapter / file).stat().st_size}


def test_peft_export_of_a_quantized_adapter_is_float32(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    quantization.quantize(adapter, tmp_path / "small", scheme="int8")
    peft.write(tmp_path / "small", None, tmp_path / "out", ExportParameters())
    assert {t.dtype for t in load_file(tmp_path / "out/adapter_model.safetensors").values()} == {torch.float32}
    for ours, theirs in zip(logits(tiny_folder, [tmp_path / "out"]), logits(tiny_folder, [adapter]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_and_merged_exports_give_the_adapters_logits(tiny_folders: Path, tmp_path: Path, variant: str) -> None:
    made = save_adapter(tiny_folders, tmp_path / "made", **VARIANTS[variant])
    expected = logits(tiny_folders, [made])
    peft.write(made, None, tmp_path / "plain", ExportParameters())
    merged.write(made, tiny_folders, tmp_path / "merged", MergedParameters())
    for actual in (logits(tiny_folders, [tmp_path / "plain"]), logits(tmp_path / "merged")):
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_ollama_export_holds_the_gguf_export(tiny_folders: Path, tmp_path: Path) -> None:
    made = save_adapter(tiny_folders, tmp_path / "made", **VARIANTS["patterns"])
    ollama.write(made, tiny_folders, tmp_path / "ollama", OllamaParameters())
    gguf.write(made, tiny_folders, tmp_path / "gguf", GGUFParameters())
    ours, theirs = (
        {tensor.name: tensor.data for tensor in gguf_package.GGUFReader(next(folder.glob("*.gguf"))).tensors}
        for folder in (tmp_path / "ollama", tmp_path / "gguf")
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_export_is_replaced_on_request_by_its_own_kind_only(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    peft.write(adapter, None, tmp_path / "out", ExportParameters())
    with pytest.raises(errors.Conflict, match="--replace"):
        peft.write(adapter, None, tmp_path / "out", ExportParameters())
    peft.write(adapter, None, tmp_path / "out", ExportParameters(replace=True))
    with pytest.raises(errors.Conflict, match="not an earlier GGUF adapter"):
        gguf.write(adapter, tiny_folder, tmp_path / "out", GGUFParameters(replace=True))


def test_merged_export_gives_the_logits_of_the_weighted_adapter(
    adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    merged.write(adapter, tiny_folder, tmp_path / "out", MergedParameters(weight=0.5))
    for ours, theirs in zip(logits(tmp_path / "out"), logits(tiny_folder, [adapter], [0.5]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    with pytest.raises(errors.Incompatible, match="base"):
        merged.write(adapter, None, tmp_path / "none", MergedParameters())


def test_ollama_export_has_a_modelfile(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    parameters = OllamaParameters(base_model="finch:135m", system="You know birds.\nBe brief.")
    report = ollama.write(adapter, tiny_folder, tmp_path / "out", parameters)
    text = 'FROM finch:135m\nADAPTER ./adapter.gguf\nSYSTEM """You know birds.\nBe brief."""\n'
    assert (tmp_path / "out/Modelfile").read_text() == text
    assert report["create"] == f"ollama create finches -f {tmp_path / 'out/Modelfile'}"
    alpha = gguf_package.GGUFReader(tmp_path / "out/adapter.gguf").get_field("adapter.lora.alpha").contents()
    assert alpha == int(alpha)
    ollama.write(adapter, tiny_folder, tmp_path / "here", OllamaParameters())
    assert (tmp_path / "here/Modelfile").read_text() == f"FROM {tiny_folder}\nADAPTER ./adapter.gguf\n"


@pytest.mark.parametrize("fields", [{"base_model": "finch\nADAPTER /etc/passwd"}, {"system": 'You """ know'}])
def test_parameters_that_would_break_the_modelfile_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidSpec):
        OllamaParameters(**fields)
