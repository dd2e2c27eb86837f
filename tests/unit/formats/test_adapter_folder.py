from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.numpy import save_file
from safetensors.torch import load_file
from support.adapters import VARIANTS, save_adapter
from transformers import AutoModelForCausalLM

from finch_hub import errors
from finch_hub.engine.export.parameters import PEFTParameters
from finch_hub.engine.export.vllm import export_vllm
from finch_hub.formats.adapter_folder import StoredAdapter, have_equal_updates
from finch_hub.formats.peft_names import CONFIG, WEIGHTS

A, B = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"


def save(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_and_scales_equal_those_of_peft(tiny_folder: Path, tmp_path: Path, variant: str) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS[variant])
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    expected = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    with StoredAdapter(folder) as stored:
        assert {path: (module.rank, module.scale) for path, module in stored.modules.items()} == expected
        assert all((stored.magnitude(path) is not None) == (variant == "dora") for path in stored.modules)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    ones = np.ones((2, 8), np.float32)
    tensors = {A: ones, A.replace("layer", "second"): ones[:1], B.replace("layer", "second"): ones.T.copy()}
    folder = save(tmp_path / "a", tensors, use_qalora=True, init_lora_weights="pissa_niter_4")
    with pytest.raises(errors.Incompatible) as caught:
        StoredAdapter(folder)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("use_qalora", "pissa_niter_4", "layer: has no lora_B.weight", "second: A [1, 8] and B [8, 2]"):
        assert part in text


@pytest.mark.parametrize(
    ("config", "error"),
    [("", errors.InvalidInput), ("[1]", errors.InvalidInput), ('{"peft_type": "IA3"}', errors.Incompatible)],
)
def test_config_of_another_type_is_refused(tmp_path: Path, config: str, error: type[Exception]) -> None:
    ones = np.ones((2, 8), np.float32)
    folder = save(tmp_path / "a", {A: ones, B: ones.T.copy()})
    (folder / CONFIG).write_text(config)
    with pytest.raises(error):
        StoredAdapter(folder)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"adapter_config\.json"):
        StoredAdapter(tmp_path)
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA"}')
    with pytest.raises(errors.NotFound, match=r"adapter_model\.safetensors"):
        StoredAdapter(tmp_path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    ones = np.ones((2, 8), np.float32)
    folder = save(tmp_path / "a", {A: ones, B: ones.T.copy()})
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    with pytest.raises(errors.InvalidInput, match=f"{len(data)}"):
        StoredAdapter(folder)


def test_bfloat16_is_read_as_by_torch(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "adapter", bf16=True, **VARIANTS["dora"])
    tensors = load_file(folder / WEIGHTS)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    with StoredAdapter(folder) as stored:
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(stored.tensor(name), tensor.float().numpy())


def test_bias_of_a_factor_is_refused(tmp_path: Path) -> None:
    ones = np.ones((2, 8), np.float32)
    tensors = {A: ones, B: ones.T.copy(), B.replace("weight", "bias"): ones[0]}
    with pytest.raises(errors.Incompatible, match="is a bias of B"):
        StoredAdapter(save(tmp_path / "a", tensors))


def test_parts_beyond_low_rank_are_listed_by_field(tmp_path: Path) -> None:
    ones = np.ones((2, 8), np.float32)
    tensors = {A: ones, B: ones.T.copy(), A.replace("lora_A.weight", "lora_magnitude_vector"): ones[0]}
    tensors |= {"base_model.model.layer.bias": ones[0], "base_model.model.head.weight": ones}
    tensors |= {
        f"base_model.model.embed.lora_embedding_{part}": values for part, values in (("A", ones), ("B", ones.T.copy()))
    }
    with StoredAdapter(save(tmp_path / "a", tensors)) as stored:
        assert stored.beyond_low_rank() == {
            "use_dora": ["layer"],
            "bias": ["layer.bias"],
            "modules_to_save": ["head.weight"],
            "embeddings": ["embed"],
        }


def beyond_low_rank(*parts: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return tensors and config fields of an adapter that has these parts beside a plain module."""
    ones = np.ones((2, 8), np.float32)
    tensors: dict[str, dict[str, np.ndarray]] = {
        "DoRA": {A.replace("lora_A.weight", "lora_magnitude_vector"): ones[0]},
        "bias": {"base_model.model.layer.bias": ones[0]},
        "module": {"base_model.model.head.weight": ones},
        "embedding": {
            "base_model.model.embed.lora_embedding_A": ones,
            "base_model.model.embed.lora_embedding_B": ones.T.copy(),
        },
    }
    config = {"fan_in_fan_out": True} if "fan_in" in parts else {}
    made = {A: ones, B: ones.T.copy()}
    for part in parts:
        made |= tensors.get(part, {})
    return made, config


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("DoRA", "layer: vLLM does not support DoRA magnitudes"),
        ("bias", r"layer\.bias: vLLM does not support trained biases"),
        ("module", r"head\.weight: vLLM does not support whole modules"),
        ("embedding", "embed: vLLM does not support updates of embeddings"),
        ("fan_in", r"vLLM does not support weights that are \[in, out\] \(fan_in_fan_out\)"),
    ],
)
def test_adapter_that_is_not_plain_is_refused_by_name(tmp_path: Path, part: str, says: str) -> None:
    tensors, config = beyond_low_rank(part)
    with StoredAdapter(save(tmp_path / "a", tensors, **config)) as stored, pytest.raises(errors.Incompatible) as caught:
        stored.require_plain("vLLM")
    (problem,) = caught.value.problems
    assert re.search(says, str(problem))


def test_plain_adapter_is_required_with_all_problems_at_once(tmp_path: Path) -> None:
    with StoredAdapter(save(tmp_path / "plain", beyond_low_rank()[0], fan_in_fan_out=False)) as stored:
        stored.require_plain("vLLM")
    tensors, config = beyond_low_rank("DoRA", "bias", "module", "embedding", "fan_in")
    with StoredAdapter(save(tmp_path / "a", tensors, **config)) as stored, pytest.raises(errors.Incompatible) as caught:
        stored.require_plain("vLLM")
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_are_equal_however_scales_and_ranks_are_stored(tiny_folder: Path, tmp_path: Path, variant: str) -> None:
    made = save_adapter(tiny_folder, tmp_path / "made", **VARIANTS[variant])
    other = save_adapter(tiny_folder, tmp_path / "other", seed=1, **VARIANTS[variant])
    copy = tmp_path / "copy"
    if variant == "dora":
        shutil.copytree(made, copy)
    else:
        export_vllm(made, None, copy, PEFTParameters())
    with StoredAdapter(made) as first, StoredAdapter(copy) as second, StoredAdapter(other) as third:
        assert have_equal_updates(first, second)
        assert have_equal_updates(second, first)
        assert not have_equal_updates(first, third)


def test_update_that_differs_a_little_or_lacks_a_module_is_another(tiny_folder: Path, tmp_path: Path) -> None:
    made = save_adapter(tiny_folder, tmp_path / "made", **VARIANTS["plain"])
    changed, fewer = (Path(shutil.copytree(made, tmp_path / name)) for name in ("changed", "fewer"))
    tensors = {name: tensor.numpy() for name, tensor in load_file(made / WEIGHTS).items()}
    first = min(tensors)
    save_file({**tensors, first: tensors[first] * np.float32(1.001)}, changed / WEIGHTS)
    path = first.partition(".lora_")[0]
    save_file({name: t for name, t in tensors.items() if not name.startswith(path)}, fewer / WEIGHTS)
    with StoredAdapter(made) as original:
        for folder in (changed, fewer):
            with StoredAdapter(folder) as other:
                assert not have_equal_updates(original, other)
