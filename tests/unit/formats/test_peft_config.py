from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import get_pattern_key
from support import fuzzing

from finch_hub.formats.peft_config import find_left_out, match_patterns, match_targets, pick_modules, ranks_and_scales


def test_patterns_match_as_in_peft() -> None:
    pattern = {"layers.1.q": 4, "q": 8, r"layers\.[0-2]\.v": 16, "mlp.*": 32, "": 64}
    modules = ["model.layers.1.q", "model.layers.11.q", "model.layers.2.v", "model.layers.3.v", "l.mlp.up", "x", "qq"]
    expected = {module: pattern.get(get_pattern_key(list(pattern), module), 2) for module in modules}
    assert match_patterns(pattern, modules, 2) == expected


def test_scales_follow_ranks_and_alphas() -> None:
    config = {"r": 4, "lora_alpha": 4, "rank_pattern": {"q": 5}, "alpha_pattern": {"q": 10}}
    assert ranks_and_scales(config, ["l.q", "l.v"]) == {"l.q": (5, 2.0), "l.v": (4, 1.0)}
    assert ranks_and_scales({**config, "use_rslora": True}, ["l.v"]) == {"l.v": (4, 2.0)}


def test_first_pattern_that_matches_the_whole_end_counts() -> None:
    config = {"r": 8, "lora_alpha": 16, "rank_pattern": {"proj": 1, "q_proj": 2, r".*\.0\..*": 4, "a.q_proj": 3}}
    assert ranks_and_scales(config, ["x.a.q_proj", "x.0.k_proj", "x.proj", "x.v_proj"]) == {
        "x.a.q_proj": (2, 8.0),
        "x.0.k_proj": (4, 4.0),
        "x.proj": (1, 16.0),
        "x.v_proj": (8, 2.0),
    }


@pytest.mark.parametrize(
    ("targets", "path", "is_target"),
    [
        (["q", "mlp.up"], "model.layers.0.q", True),
        (["mlp.up"], "model.mlp.up", True),
        (["q"], "model.layers.0.qq", False),
        (r".*\.(q|v)", "model.layers.0.v", True),
        (r".*\.(q|v)", "model.layers.0.k", False),
    ],
)
def test_targets_match_by_name_suffix_and_expression(targets: list[str] | str, path: str, is_target: bool) -> None:
    assert match_targets(targets, [path]) == [path] * is_target


PATHS = [
    *(f"model.layers.{n}.{name}" for n in range(3) for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")),
    "model.layers.1.mlp.experts.0.up_proj",
    "model.blocks.0.q_proj",
    "layers.0.q_proj",
    "lm_head",
    "model.embed_tokens",
]
_NAMES = ["q_proj", "v_proj", "mlp.up_proj", "model.layers.1.self_attn.q_proj", "lm_head", "layers.0.q_proj", "proj"]
_REGEXES = [r".*\.q_proj", r"model\.layers\.0\..*", r"q_proj", r".*", r".*layers.*_proj"]


@given(
    targets=st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4) | st.sampled_from(_REGEXES),
    excluded=st.none() | st.lists(st.sampled_from(_NAMES), max_size=3) | st.sampled_from(_REGEXES),
    layers=st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    pattern=st.none() | st.sampled_from(["layers", "blocks", ["blocks", "layers"], [], "x"]),
    saved=st.none() | st.lists(st.sampled_from(["lm_head", "mlp", "embed_tokens"]), max_size=2),
)
@settings(deadline=None, max_examples=fuzzing.examples(200))
def test_config_picks_the_modules_that_peft_picks(
    targets: list[str] | str,
    excluded: list[str] | str | None,
    layers: int | list[int] | None,
    pattern: str | list[str] | None,
    saved: list[str] | None,
) -> None:
    config = {
        "target_modules": targets,
        "exclude_modules": excluded,
        "layers_to_transform": layers,
        "layers_pattern": pattern,
        "modules_to_save": saved,
    }
    theirs = SimpleNamespace(**config, target_parameters=None)
    found = {path: check_target_module_exists(theirs, path) for path in PATHS}
    if not isinstance(targets, str) or layers is None:  # PEFT does not read others
        assert pick_modules(config, PATHS) == [
            path for path, result in found.items() if result and not isinstance(result, _ExcludedModule)
        ]
        assert set(find_left_out(config, PATHS)) == set(PATHS) - set(pick_modules(config, PATHS))


@pytest.mark.parametrize("targets", ["all-linear", "All-Linear", None])
def test_all_linear_and_no_targets_pick_every_candidate(targets: str | None) -> None:
    assert pick_modules({"target_modules": targets}, PATHS) == PATHS
    assert find_left_out({"target_modules": targets, "exclude_modules": ["lm_head"]}, PATHS) == {
        "lm_head": "exclude_modules"
    }
