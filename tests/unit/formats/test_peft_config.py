import pytest
from peft.utils.other import get_pattern_key

from finch_hub.formats.peft_config import match_patterns, match_targets, ranks_and_scales


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
