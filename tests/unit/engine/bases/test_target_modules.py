"""Modules that a configuration names, compared with PEFT's own matching."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba, check_target_module_exists
from support.models import DEFAULT, save_model

from finch_hub import errors
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.module_layout import read_layout
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.specs.lora import LoRAConfig

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
BLOCKS = [*(f"self_attn.{name}" for name in ATTENTION), *(f"mlp.{name}" for name in MLP)]
MODULES = [*(f"model.layers.{layer}.{name}" for layer in range(3) for name in BLOCKS), "lm_head"]
FUSED = [f"model.layers.{layer}.mlp.experts.{name}" for layer in range(2) for name in ("up_proj", "down_proj")]


def layout_of(modules: Iterable[str], **fields: Any) -> BaseLayout:
    embeddings = {"model.embed_tokens": (9, 8)}
    linear = dict.fromkeys(modules, (8, 8))
    return BaseLayout(
        **{"name": "", "linear": linear, "embeddings": embeddings, "parameters": {}, "head": "lm_head", **fields}
    )


LAYOUT = layout_of(MODULES)


def match(**fields: Any) -> tuple[str, ...]:
    return target_modules.match(LoRAConfig(**fields), LAYOUT)


def test_short_names_stand_for_blocks() -> None:
    assert {path.rsplit(".", 1)[1] for path in match(target_modules="attention")} == set(ATTENTION)
    assert {path.rsplit(".", 1)[1] for path in match(target_modules="mlp")} == set(MLP)
    assert match(target_modules="all-linear") == tuple(MODULES[:-1])


def test_linear_attention_is_attention() -> None:
    """Three of four layers of Qwen3-Next have it."""
    layout = layout_of(["model.layers.0.linear_attn.in_proj_qkvz", "model.layers.3.self_attn.q_proj"])
    assert target_modules.match(LoRAConfig(target_modules="attention"), layout) == tuple(layout.linear)


def test_head_is_adapted_only_by_its_name() -> None:
    assert match(target_modules=("lm_head",)) == ("lm_head",)
    assert match(target_modules=r".*\.q_proj|lm_head")[-1] == "lm_head"
    assert "lm_head" not in match(target_modules="all-linear")


@pytest.mark.parametrize(
    "wanted", [("embed_tokens",), ("q_proj", "model.embed_tokens"), r".*embed.*", r".*(q_proj|tokens)"]
)
def test_embeddings_are_refused(wanted: Any) -> None:
    with pytest.raises(errors.InvalidSpec, match="'embed_tokens' is an embedding"):
        match(target_modules=wanted)


@pytest.mark.parametrize("wanted", ["all-linear", "mlp", ("up_proj",), ("q_proj", "gate_proj")])
def test_experts_are_refused_with_what_exists(wanted: Any) -> None:
    attention = [path for path in MODULES if "mlp" not in path]
    layout = layout_of(attention, fused=tuple(FUSED))
    with pytest.raises(
        errors.InvalidSpec, match=r"fused \(mlp.experts.down_proj, mlp.experts.up_proj\).*name some of k_proj"
    ):
        target_modules.match(LoRAConfig(target_modules=wanted), layout)
    assert target_modules.match(LoRAConfig(target_modules="attention"), layout) == tuple(attention[:-1])


def test_modules_that_peft_refuses_are_refused_unless_excluded() -> None:
    layout = layout_of([*MODULES, "model.layers.0.mamba.out_proj"], model_type="falcon_h1")
    for wanted in ("all-linear", ("q_proj", "out_proj")):
        with pytest.raises(errors.InvalidSpec, match=r"PEFT does not adapt 'out_proj'.*exclude_modules=out_proj"):
            target_modules.match(LoRAConfig(target_modules=wanted), layout)
        config = LoRAConfig(target_modules=wanted, exclude_modules=("out_proj",))
        assert not any("out_proj" in path for path in target_modules.match(config, layout))


def test_names_and_families_that_peft_refuses_are_ours() -> None:
    """PEFT has them inside of a function, so the function is asked about all of them and a few others."""
    for family in (*target_modules._MAMBA_TYPES, "llama", "recurrent_gemma"):
        for name in (*target_modules._MAMBA_MODULES, "in_proj"):
            model: Any = SimpleNamespace(config=SimpleNamespace(model_type=family))
            is_refused = family in target_modules._MAMBA_TYPES and name in target_modules._MAMBA_MODULES
            with pytest.raises(ValueError, match=name) if is_refused else nullcontext():
                _check_lora_target_modules_mamba(peft.LoraConfig(), model, name)


def test_the_head_is_named_only_by_names_and_patterns() -> None:
    is_named = {"lm_head": True, ".*(q_proj|head)": True, "all-linear": False, "(": False, ".*q_proj": False}
    for wanted, expected in is_named.items():
        assert target_modules.names_head(LoRAConfig(target_modules=wanted), LAYOUT) is expected
    assert target_modules.names_head(LoRAConfig(target_modules=("q_proj", "lm_head")), LAYOUT)
    assert not target_modules.names_head(LoRAConfig(target_modules=("q_proj",)), LAYOUT)


def test_dora_on_transposed_weights_is_refused() -> None:
    layout = layout_of(["transformer.h.0.c_fc"], transposed=frozenset({"transformer.h.0.c_fc"}))
    with pytest.raises(errors.InvalidSpec, match="DoRA is not supported on the Conv1D"):
        target_modules.match(LoRAConfig(target_modules="all-linear", use_dora=True), layout)


def test_every_unknown_name_is_reported_with_similar_names() -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        match(
            target_modules=("q_prj", "v_proj", "nothing_like_it"),
            exclude_modules=("donw_proj",),
            layers_to_transform=(1, 9),
            rank_pattern={"zz_proj": 3},
            alpha_pattern={"(": 2.0},
        )
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    assert "'q_prj' names no linear module (did you mean q_proj" in text
    assert "'donw_proj' names no linear module (did you mean down_proj" in text
    assert "no layer 9 (the base has layers 0 to 2)" in text
    assert "'zz_proj' matches no adapted module" in text
    assert "'(' is not a regular expression" in text


@pytest.mark.parametrize("wanted", [r".*\.(q|k)_pro", "(", "attention"])
def test_patterns_that_match_nothing_are_refused(wanted: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="target_modules"):
        target_modules.match(LoRAConfig(target_modules=wanted), layout_of(["transformer.h.0.c_fc"]))


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="also excluded"):
        match(target_modules=("q_proj",), exclude_modules=("self_attn.q_proj",))


def test_layers_without_a_named_module_are_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match=r"layers_to_transform.*none of the target modules"):
        match(target_modules=r".*layers\.0\..*", layers_to_transform=(1, 2))


CONFIGS = st.fixed_dictionaries(
    {
        "target_modules": st.one_of(
            st.sampled_from(["all-linear", "attention", "mlp", r".*layers\.[02]\.mlp\..*", r".*\.(q|down)_proj"]),
            st.lists(st.sampled_from([*ATTENTION, *MLP, "self_attn.k_proj"]), min_size=1, unique=True).map(tuple),
        ),
        "exclude_modules": st.lists(st.sampled_from([*ATTENTION, "mlp.up_proj"]), max_size=2, unique=True).map(tuple),
        "layers_to_transform": st.none() | st.lists(st.integers(0, 2), min_size=1, unique=True).map(tuple),
        "rank_pattern": st.dictionaries(
            st.sampled_from(["q_proj", "v_proj", r"layers\.1\..*", "down_proj"]), st.integers(1, 9), max_size=2
        ),
    }
)


@given(CONFIGS)
def test_peft_chooses_the_same_modules(fields: dict[str, Any]) -> None:
    config = LoRAConfig(**fields)
    try:
        chosen = target_modules.match(config, LAYOUT)
    except errors.InvalidSpec:
        return
    wanted = target_modules.peft_targets(config, LAYOUT)
    layers = target_modules.peft_layers(config)
    theirs = peft.LoraConfig(
        target_modules=wanted, exclude_modules=list(config.exclude_modules) or None, layers_to_transform=layers
    )
    assert tuple(path for path in MODULES if check_target_module_exists(theirs, path)) == chosen


def test_names_shared_by_two_blocks_become_full_paths() -> None:
    layout = layout_of(
        f"transformer.h.{layer}.{name}" for layer in range(2) for name in ("attn.c_proj", "mlp.c_proj", "mlp.c_fc")
    )
    config = LoRAConfig(target_modules="attention")
    assert target_modules.peft_targets(config, layout) == [f"transformer.h.{layer}.attn.c_proj" for layer in range(2)]
    assert target_modules.peft_targets(LoRAConfig(target_modules="all-linear"), layout) == ["c_fc", "c_proj"]


def test_names_that_modules_of_other_kinds_have_become_full_paths() -> None:
    linear = {f"h.{layer}.{name}": (4, 4) for layer in range(2) for name in ("Wq", "ffn.0", "ffn.2")}
    parameters = {f"{path}.weight": shape for path, shape in linear.items()} | {"h.0.norm.weight": (4,)}
    layout = BaseLayout(name="ctrl", linear=linear, embeddings={}, parameters=parameters)
    chosen = target_modules.peft_targets(LoRAConfig(target_modules="all-linear"), layout)
    assert chosen == sorted(linear), "PEFT would take h.0 for a module of the name 0"


def test_block_that_a_base_lacks_is_not_proposed_again() -> None:
    layout = BaseLayout(name="mamba", linear={"layers.0.mixer.in_proj": (4, 4)}, embeddings={}, parameters={})
    with pytest.raises(errors.InvalidSpec, match=r"'attention' has no modules .*\(did you mean in_proj\?\)"):
        target_modules.match(LoRAConfig(target_modules="attention"), layout)


def test_parameters_are_counted_from_shapes_alone(tmp_path: Path) -> None:
    layout = read_layout(save_model(DEFAULT, tmp_path), name="")
    config = LoRAConfig(rank=4, target_modules=("q_proj", "v_proj"), rank_pattern={r"layers\.1\.self_attn\.v_proj": 7})
    # Two layers; q is 64 by 64, v 32 by 64.
    plain = target_modules.count_adapter_parameters(config, layout)
    assert plain == 2 * 4 * 128 + 4 * 96 + 7 * 96
    assert target_modules.count_adapter_parameters(config.evolve(use_dora=True), layout) == plain + 2 * (64 + 32)
