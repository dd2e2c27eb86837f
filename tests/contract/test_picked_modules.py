"""Modules that a config picks: the hub adapts those that PEFT adapts, or refuses the adapter at every way in."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import TEXTS, logits, save_adapter
from support.families import named, save_family
from transformers import AutoModelForCausalLM

import finch_hub
from finch_hub import errors
from finch_hub.artifacts.gate import admit_adapter
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.bases.module_layout import read_layout
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.peft_names import CONFIG, WEIGHTS

SHAPE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def layout(tiny_folder: Path) -> BaseLayout:
    return read_layout(tiny_folder, name="tiny")


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_folder, tmp_path_factory.mktemp("peft") / "made", **SHAPE)


def with_fields(source: Path, target: Path, **fields: Any) -> Path:
    target.mkdir()
    config = {**json.loads((source / CONFIG).read_text()), **fields}
    (target / CONFIG).write_text(json.dumps(config))
    save_file(load_file(source / WEIGHTS), target / WEIGHTS, {"format": "pt"})
    return target


def answers(base: Path, adapter: Path, *, attach: bool = False) -> list[torch.Tensor]:
    """Return the hub's logits of each text, through a generator or an attached adapter."""
    loaded = load_base(base, dtype="float32", device="cpu")
    with torch.inference_mode():
        ids = [loaded.tokenizer(text, return_tensors="pt").input_ids for text in TEXTS]
        if attach:
            finch_hub.LoRAAdapter.load(adapter, loaded)
            return [loaded.model(row).logits[0] for row in ids]
        model = GeneratorModel(loaded)
        model.load_lora(adapter, "guest")
        with model.using("guest"):
            return [loaded.model(row).logits[0] for row in ids]


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=2e-4, rtol=1e-4)


PICKED: dict[str, dict[str, Any]] = {
    "a list of excluded names": {"exclude_modules": ["v_proj", "layers.0.mlp.down_proj"]},
    "an expression of excluded modules": {"exclude_modules": r".*\.(v|o)_proj"},
    "an expression that excludes a layer": {"exclude_modules": r"model\.layers\.0\..*"},
    "one layer by number": {"layers_to_transform": 1},
    "layer 0": {"layers_to_transform": 0},
    "a list of layers": {"layers_to_transform": [0]},
    "layers with their pattern": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "layers with patterns": {"layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
    "a pattern of ranks for excluded modules": {
        "exclude_modules": ["v_proj"],
        "rank_pattern": {"v_proj": 2, "down_proj": 3},
        "alpha_pattern": {"v_proj": 5, "q_proj": 7},
    },
    "an expression": {"target_modules": r"model\.layers\.[01]\.(self_attn\.[qo]|mlp\.up)_proj"},
    "an expression with exclusions": {"target_modules": r".*_proj", "exclude_modules": ["q_proj", "up_proj"]},
    "a path, which PEFT adapts in any layer": {"target_modules": ["v_proj", Q0], "layers_to_transform": [1]},
    "all linear modules but some": {"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj"]},
    "capital letters": {"target_modules": "All-Linear"},
}


@pytest.mark.parametrize("fields", PICKED.values(), ids=PICKED)
def test_adapter_with_the_modules_that_its_config_picks_answers_as_in_peft(
    tiny_folder: Path, layout: BaseLayout, tmp_path: Path, fields: dict[str, Any]
) -> None:
    made = save_adapter(tiny_folder, tmp_path / "made", **SHAPE | fields)
    # PEFT writes the names of "all-linear" instead of the text.
    sent = with_fields(made, tmp_path / "sent", **fields)
    expected = logits(tiny_folder, [made])
    admitted = admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert admitted.notes == ()
    assert_equal(logits(tiny_folder, [admitted.folder]), expected)
    assert_equal(answers(tiny_folder, admitted.folder), expected)
    assert_equal(answers(tiny_folder, sent), expected)
    assert_equal(answers(tiny_folder, sent, attach=True), expected)
    assert admit_adapter(admitted.folder, tmp_path / "again").identity == admitted.identity


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "a list of excluded names": ({"exclude_modules": ["v_proj"]}, "exclude_modules"),
    "an expression of excluded modules": ({"exclude_modules": r".*\.v_proj"}, "exclude_modules"),
    "an excluded path": ({"exclude_modules": [Q0]}, "exclude_modules"),
    "one layer by number": ({"layers_to_transform": 1}, "layers_to_transform"),
    "layer 0": ({"layers_to_transform": 0}, "layers_to_transform"),
    "a list of layers": ({"layers_to_transform": [0]}, "layers_to_transform"),
    "layers that are not there": ({"layers_to_transform": [5]}, "layers_to_transform"),
    "a pattern of other layers": ({"layers_to_transform": [0, 1], "layers_pattern": "h"}, "layers_to_transform"),
    "fewer targets": ({"target_modules": ["q_proj", "down_proj"]}, "target_modules"),
    "an expression of fewer targets": ({"target_modules": r".*\.(q|v)_proj"}, "target_modules"),
    "an expression of a part of the path": ({"target_modules": r"(q|v|down)_proj"}, "target_modules"),
    "a module that is saved whole": ({"modules_to_save": ["mlp"]}, "modules_to_save"),
    "layers of an expression": ({"target_modules": r".*_proj", "layers_to_transform": [0, 1]}, "layers_to_transform"),
    "layers of all linear modules": ({"target_modules": "all-linear", "layers_to_transform": 1}, "layers_to_transform"),
    "no targets, but exclusions": ({"target_modules": None, "exclude_modules": ["v_proj"]}, "exclude_modules"),
}


@pytest.mark.parametrize(("fields", "field"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_adapter_with_modules_that_its_config_leaves_out_is_refused_at_every_way_in(
    tiny_folder: Path, layout: BaseLayout, made: Path, tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    sent = with_fields(made, tmp_path / "sent", **fields)
    ways = (
        lambda: admit_adapter(sent, tmp_path / "admitted", base=layout),
        lambda: admit_adapter(sent, tmp_path / "unchecked"),
        lambda: answers(tiny_folder, sent),
        lambda: answers(tiny_folder, sent, attach=True),
        lambda: finch_hub.LoRAAdapter.load(sent),
    )
    for way in ways:
        with pytest.raises((errors.RefusedArtifact, errors.Incompatible), match=field):
            way()


@pytest.mark.parametrize("fields", [LEFT_OUT[name][0] for name in ("layers of an expression", "layer 0")])
def test_peft_does_not_compute_with_what_is_refused(
    tiny_folder: Path, made: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    sent = with_fields(made, tmp_path / "sent", **fields)
    if isinstance(fields.get("target_modules"), str):
        with pytest.raises(ValueError, match="layers_to_transform"):
            logits(tiny_folder, [sent])
    else:
        whole, part = logits(tiny_folder, [made]), logits(tiny_folder, [sent])
        assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(whole, part, strict=True))


def test_head_is_not_among_all_linear_modules(tmp_path: Path) -> None:
    base = save_family(named("llama"), tmp_path / "base", tie_word_embeddings=False)
    made = save_adapter(base, tmp_path / "made", r=4, target_modules=["q_proj", "lm_head"])
    tensors = {name: tensor for name, tensor in load_file(made / WEIGHTS).items() if ".base_layer." not in name}
    save_file(tensors, made / WEIGHTS, {"format": "pt"})
    sent = with_fields(made, tmp_path / "sent", target_modules="all-linear")
    layout = read_layout(base, name="untied")
    for way in (
        lambda: admit_adapter(sent, tmp_path / "admitted", base=layout),
        lambda: answers(base, sent),
        lambda: answers(base, sent, attach=True),
    ):
        with pytest.raises(errors.Incompatible, match=r"lm_head: has tensors, but target_modules=all-linear"):
            way()
    fine = admit_adapter(made, tmp_path / "fine", base=layout)
    assert_equal(answers(base, fine.folder), logits(base, [made]))


ABSENT: dict[str, dict[str, Any]] = {
    "more names": {"target_modules": ["q_proj", "v_proj", "down_proj", "o_proj"]},
    "an expression": {"target_modules": r".*_proj"},
    "all linear modules": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("fields", ABSENT.values(), ids=ABSENT)
def test_modules_that_only_the_config_has_stay_as_in_the_base(
    tiny_folder: Path, layout: BaseLayout, made: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """PEFT warns, and adds nothing to them. The hub stores the modules of the file, so that no reader has to warn."""
    sent = with_fields(made, tmp_path / "sent", **fields)
    admitted = admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert "target_modules names only modules that the file has" in str(admitted.notes)
    expected = logits(tiny_folder, [sent])
    assert_equal(answers(tiny_folder, admitted.folder), expected)
    assert_equal(answers(tiny_folder, sent), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of keys that are missing or too many
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), admitted.folder)


def test_pattern_of_layers_without_layers_is_ignored_and_said(
    tiny_folder: Path, layout: BaseLayout, made: Path, tmp_path: Path
) -> None:
    """PEFT 0.10 wrote it. PEFT 0.21 does not read it."""
    sent = with_fields(made, tmp_path / "sent", layers_pattern="layers", layers_to_transform=None)
    admitted = admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert admitted.ignored_fields == {"layers_pattern": "layers"}
    assert_equal(logits(tiny_folder, [admitted.folder]), logits(tiny_folder, [made]))


@pytest.mark.parametrize(
    "fields", [{"exclude_modules": r".*\.v_proj"}, {"layers_to_transform": [1], "layers_pattern": "layers"}]
)
def test_configuration_of_a_loaded_adapter_names_its_modules(
    tiny_folder: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    made = save_adapter(tiny_folder, tmp_path / "made", **SHAPE | fields)
    adapter = finch_hub.LoRAAdapter.load(made, load_base(tiny_folder, dtype="float32", device="cpu"))
    assert set(adapter.config.target_modules) == set(adapter.layers)
    assert adapter.config.exclude_modules == ()
    assert adapter.config.layers_to_transform is None
