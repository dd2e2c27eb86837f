from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from safetensors.numpy import save_file
from safetensors.torch import load_file
from support.adapters import VARIANTS, save_adapter
from transformers import AutoModelForCausalLM

from finch_hub import errors
from finch_hub.formats.adapter_folder import CONFIG, WEIGHTS, StoredAdapter, scale_of
from finch_hub.formats.tensor_file import round_into, to_float32

A, B = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"


def save(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_and_scales_are_pefts(tiny_folder: Path, tmp_path: Path, variant: str) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS[variant])
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    wanted = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    with StoredAdapter(folder) as stored:
        assert {path: (module.rank, module.scale) for path, module in stored.modules.items()} == wanted
        assert all((stored.magnitude(path) is not None) == (variant == "dora") for path in stored.modules)


def test_an_earlier_pattern_wins_and_the_whole_end_must_match() -> None:
    config = {"r": 8, "lora_alpha": 16, "rank_pattern": {"proj": 1, "q_proj": 2, r".*\.0\..*": 4, "a.q_proj": 3}}
    assert scale_of(config, "x.a.q_proj") == (2, 8.0)
    assert scale_of(config, "x.0.k_proj") == (4, 4.0)
    assert scale_of(config, "x.proj") == (1, 16.0)
    assert scale_of(config, "x.v_proj") == (8, 2.0)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    ones = np.ones((2, 8), np.float32)
    tensors = {A: ones, A.replace("layer", "second"): ones[:1], B.replace("layer", "second"): ones.T.copy()}
    folder = save(tmp_path / "a", tensors, use_qalora=True, init_lora_weights="pissa_niter_4")
    with pytest.raises(errors.Incompatible) as caught:
        StoredAdapter(folder)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("use_qalora", "pissa_niter_4", "layer: has no B", "second: A [1, 8] and B [8, 2]"):
        assert part in text


@pytest.mark.parametrize(
    ("config", "error"),
    [("", errors.InvalidInput), ("[1]", errors.InvalidInput), ('{"peft_type": "IA3"}', errors.Incompatible)],
)
def test_other_configurations_are_refused(tmp_path: Path, config: str, error: type[Exception]) -> None:
    ones = np.ones((2, 8), np.float32)
    folder = save(tmp_path / "a", {A: ones, B: ones.T.copy()})
    (folder / CONFIG).write_text(config)
    with pytest.raises(error):
        StoredAdapter(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"adapter_config\.json"):
        StoredAdapter(tmp_path)
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA"}')
    with pytest.raises(errors.NotFound, match=r"adapter_model\.safetensors"):
        StoredAdapter(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    ones = np.ones((2, 8), np.float32)
    folder = save(tmp_path / "a", {A: ones, B: ones.T.copy()})
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    with pytest.raises(errors.InvalidInput, match=f"{len(data)}"):
        StoredAdapter(folder)


def test_brain_floats_are_read_as_torch_reads_them(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "adapter", bf16=True, **VARIANTS["dora"])
    tensors = load_file(folder / WEIGHTS)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    with StoredAdapter(folder) as stored:
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(stored.tensor(name), tensor.float().numpy())


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_is_torchs(values: list[float]) -> None:
    for dtype, storage, wanted in (
        ("BF16", np.uint16, torch.bfloat16),
        ("F16", np.float16, torch.float16),
        ("F32", np.float32, torch.float32),
    ):
        numbers = np.array(values, np.float32)
        stored = np.empty(len(values), storage)
        finite = round_into(stored, numbers.copy(), np.empty_like(numbers), dtype)
        theirs = torch.from_numpy(numbers).to(wanted).float().numpy()
        np.testing.assert_array_equal(to_float32(stored, dtype), theirs)
        assert finite == bool(np.isfinite(theirs).all())
