from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.adapters import VARIANTS, logits, save_adapter

from finch_hub import errors
from finch_hub.engine.export import gguf, merging, peft, quantization
from finch_hub.engine.export.parameters import GGUFParameters, MergedParameters, PEFTParameters


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_folder, tmp_path_factory.mktemp("adapter") / "finches", **VARIANTS["plain"])


def test_peft_export_keeps_the_bytes_of_the_weights(adapter: Path, tmp_path: Path) -> None:
    (adapter / "README.md").write_text("# card\n")
    report = peft.export_peft(adapter, None, tmp_path / "out", PEFTParameters())
    file = "adapter_model.safetensors"
    assert (tmp_path / "out" / file).read_bytes() == (adapter / file).read_bytes()
    assert (tmp_path / "out/README.md").read_text() == "# card\n"
    assert report == {"modules": 14, "bytes": (adapter / file).stat().st_size}


def test_peft_export_of_a_quantized_adapter_is_float32(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    quantization.quantize(adapter, tmp_path / "small", scheme="int8")
    peft.export_peft(tmp_path / "small", None, tmp_path / "out", PEFTParameters())
    assert {t.dtype for t in load_file(tmp_path / "out/adapter_model.safetensors").values()} == {torch.float32}
    for ours, theirs in zip(logits(tiny_folder, [tmp_path / "out"]), logits(tiny_folder, [adapter]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_and_merged_exports_give_the_adapters_logits(tiny_folders: Path, tmp_path: Path, variant: str) -> None:
    made = save_adapter(tiny_folders, tmp_path / "made", **VARIANTS[variant])
    expected = logits(tiny_folders, [made])
    peft.export_peft(made, None, tmp_path / "plain", PEFTParameters())
    merging.export_merged(made, tiny_folders, tmp_path / "merged", MergedParameters())
    for actual in (logits(tiny_folders, [tmp_path / "plain"]), logits(tmp_path / "merged")):
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_export_is_replaced_on_request_by_its_own_kind_only(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    peft.export_peft(adapter, None, tmp_path / "out", PEFTParameters())
    with pytest.raises(errors.Conflict, match="replace=True"):
        peft.export_peft(adapter, None, tmp_path / "out", PEFTParameters())
    peft.export_peft(adapter, None, tmp_path / "out", PEFTParameters(replace=True))
    with pytest.raises(errors.Conflict, match="not an earlier GGUF adapter"):
        gguf.export_gguf(adapter, tiny_folder, tmp_path / "out", GGUFParameters(replace=True))
