"""Configs of models that would make transformers fetch or run code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.bases.module_layout import read_layout
from finch_hub.formats.model_config_checks import find_unsafe_fields, find_unsafe_tokenizer_fields
from finch_hub.specs.jobs import BaseModelSource

KERNEL = "kernels-community/x"
UNSAFE: dict[str, tuple[dict[str, Any], str]] = {
    "attention": ({"_attn_implementation": KERNEL}, "_attn_implementation"),
    "attention without a mark": ({"attn_implementation": KERNEL}, "attn_implementation"),
    "inner attention": ({"_attn_implementation_internal": KERNEL}, "_attn_implementation_internal"),
    "attention of a part": ({"text_config": {"_attn_implementation": KERNEL}}, "text_config._attn_implementation"),
    "attention of parts": ({"_attn_implementation": {"": "eager", "text_config": KERNEL}}, "_attn_implementation"),
    "attention in a list": ({"parts": [{"attn_implementation": KERNEL}]}, "parts.attn_implementation"),
    "experts": ({"experts_implementation": "sonicmoe"}, "experts_implementation"),
    "other type": ({"_attn_implementation": 5}, "_attn_implementation"),
    "kernels of a quantization": ({"quantization_config": {"quant_method": "mxfp4"}}, "quantization_config"),
    "unknown quantization": ({"quantization_config": {"quant_method": ["x"]}}, "quantization_config"),
    "quantization of a part": ({"text_config": {"quantization_config": {"quant_method": "x"}}}, "text_config.quantiz"),
    "no quantization": ({"text_config": {"quantization_config": "x"}}, "text_config.quantization_config"),
}


@pytest.mark.parametrize(("fields", "where"), UNSAFE.values(), ids=UNSAFE)
def test_field_that_chooses_code_is_refused(fields: dict[str, Any], where: str) -> None:
    (problem,) = find_unsafe_fields(fields)
    assert problem.where.startswith(where)


@pytest.mark.parametrize(
    "fields",
    [
        {"_attn_implementation": "sdpa", "_attn_implementation_autoset": True},
        {"attn_implementation": None, "experts_implementation": "grouped_mm", "cache_implementation": "hybrid"},
        {"quantization_config": None, "text_config": {"quantization_config": {"load_in_8bit": True}}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"_name_or_path": "org/name", "auto_map": {"AutoConfig": "x.Y"}, "trust_remote_code": True},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}, "layer_types": ["full_attention"] * 100},
    ],
)
def test_fields_of_usual_configs_pass(fields: dict[str, Any]) -> None:
    assert not [*find_unsafe_fields(fields)]


def test_deep_config_is_refused() -> None:
    deep: Any = {}
    for _ in range(10_000):
        deep = {"a": [deep]}
    (problem,) = find_unsafe_fields(deep)
    assert problem.what == "is nested more than 64 deep"


@pytest.mark.parametrize("files", ["../x", ["../tokenizer.4.json"], ["tokenizer.4.json"], {"a": 1}, 5])
def test_other_files_of_a_tokenizer_are_refused(files: object) -> None:
    """The fingerprint of a base has tokenizer.json only."""
    (problem,) = find_unsafe_tokenizer_fields({"fast_tokenizer_files": files})
    assert problem.where == "fast_tokenizer_files"


def test_base_that_chooses_code_is_refused_before_transformers_reads_it(tiny_folder: Path, tmp_path: Path) -> None:
    for name, change in (
        ("config.json", {"_attn_implementation": KERNEL}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.json"]}),
    ):
        folder = Path(shutil.copytree(tiny_folder, tmp_path / name))
        config = json.loads((folder / name).read_bytes())
        (folder / name).write_text(json.dumps({**config, **change}))
        with pytest.raises(errors.Incompatible, match=next(iter(change))):
            load_base(folder, device="cpu", cache=tmp_path)
        with pytest.raises(errors.InvalidInput, match=next(iter(change))):
            load_base(folder, device="cpu", cache=tmp_path, fetch=lambda source, **_: Path(source.source))
        if name == "config.json":
            with pytest.raises(errors.InvalidInput, match=next(iter(change))):
                read_layout(folder, name="x")


def test_code_of_a_base_never_runs(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        config = json.loads((folder / name).read_bytes())
        kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        config |= {"trust_remote_code": True, "auto_map": dict.fromkeys(kinds, "evil.Evil")}
        (folder / name).write_text(json.dumps(config))
    assert load_base(BaseModelSource(source=str(folder)), device="cpu", cache=tmp_path).num_parameters
    assert not (tmp_path / "ran").exists()
