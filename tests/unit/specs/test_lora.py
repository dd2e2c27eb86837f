import warnings

import pytest

from finch_hub import errors
from finch_hub.specs.lora import LoRAConfig, UnusualValueWarning


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 4, "alpha": 1.0, "dropout": 0.0},
        {"rank": 64, "alpha": 32.0, "dropout": 0.3},
        {"rank": "auto"},
        {"target_modules": "all-linear"},
    ],
)
def test_usual_values_do_not_warn(fields: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LoRAConfig.of(fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rank": 2}, "rank=2 .* rarely hold a domain"),
        ({"rank": 128}, "rank=128 .* overfit"),
        ({"alpha": 64.0}, "alpha=64 .* unstable"),
        ({"dropout": 0.5}, "dropout=0.5 .* hides too much"),
    ],
)
def test_unusual_values_warn_with_a_reason(fields: dict[str, object], reason: str) -> None:
    with pytest.warns(UnusualValueWarning, match=reason):
        config = LoRAConfig.of(fields)
    assert {name: getattr(config, name) for name in fields} == fields


def test_invalid_values_are_reported_together() -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        LoRAConfig(rank=0, alpha=-1.0, dropout=1.0, target_modules=())
    assert {problem.where.split(".")[0] for problem in caught.value.problems} == {
        "rank",
        "alpha",
        "dropout",
        "target_modules",
    }


def test_evolve_validates_the_copy_and_keeps_the_original() -> None:
    config = LoRAConfig(rank=8)
    assert config.evolve(alpha=8.0) == LoRAConfig(rank=8, alpha=8.0)
    with pytest.raises(errors.InvalidSpec):
        config.evolve(rank=0)
    assert config == LoRAConfig(rank=8)


def test_config_read_from_json_equals_itself() -> None:
    config = LoRAConfig(rank=8, rank_pattern={"q_proj": 4}, layers_to_transform=(1, 2))
    assert LoRAConfig.of(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "field", [{"rank_pattern": {"q_proj": 8}}, {"alpha_pattern": {"q_proj": 8.0}}, {"use_dora": True}]
)
def test_automatic_rank_with_patterns_or_dora_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidSpec, match=next(iter(field))):
        LoRAConfig.of({"rank": "auto", **field})
    assert LoRAConfig.model_validate({"rank": "auto", **field}, context={"stored": True}).rank == "auto"


def test_rank_budget_without_automatic_rank_is_refused() -> None:
    assert LoRAConfig(rank="auto", rank_budget=1000).rank_budget == 1000
    with pytest.raises(errors.InvalidSpec, match="rank_budget"):
        LoRAConfig(rank_budget=1000)
