"""The adapter that a training starts from: rank and initial A."""

from __future__ import annotations

import pytest
import torch
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.adapters.initialization import make_initial_a
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.rank import eva, starting_adapter
from finch_hub.engine.training import loop
from finch_hub.engine.training.adapter import LoRAAdapter
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

TRAINING = TrainingConfig(epochs=4, batch_size=4, learning_rate=5e-3, threads=1, validation=0.25)


def test_too_little_data_for_an_automatic_rank_is_refused_before_training(tiny_base: Base) -> None:
    with pytest.raises(errors.InvalidDataset, match="8") as caught:
        loop.train(tiny_base, LoRAConfig(rank="auto"), TRAINING, lessons(4))
    assert len(caught.value.problems) == 2


def test_init_eva_starts_from_evas_directions(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    config = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear", init="eva")
    messages: list[str] = []
    adapter = starting_adapter.attach(tiny_base, config, examples, seed=0, report_message=messages.append)
    weights = adapter.weights().modules
    adapter.detach()
    found = eva.find_directions(tiny_base, list(weights), examples, rank=4)
    assert all(torch.equal(module.A, found.rows[path]) for path, module in weights.items())
    assert "settled" in messages[0]


def test_an_automatic_rank_is_divided_by_eva_and_starts_from_the_shared_a(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting_adapter, "GENEROUS_RANK", 24)  # PEFT's EVA needs twice this, and the base is 64 wide
    examples = tokenize_all(lessons(48), tiny_base.tokenizer, max_length=512)
    monkeypatch.setattr(starting_adapter, "_LEAST_RANK", 8)
    config = LoRAConfig(rank="auto", alpha=32.0, target_modules="all-linear")
    adapter = starting_adapter.attach(tiny_base, config, examples, seed=0, report_message=lambda text: None)
    modules = adapter.weights().modules
    sizes = {path: module.rank for path, module in modules.items()}
    adapter.detach()
    found = eva.find_directions(tiny_base, list(sizes), examples, rank=24, redistribution=64 / 48)
    assert sizes == {path: max(len(rows), starting_adapter._LEAST_RANK) for path, rows in found.rows.items()}
    assert len(set(sizes.values())) > 2
    assert {module.scale for module in modules.values()} == {2.0}
    for path, module in modules.items():
        assert torch.equal(module.A, make_initial_a(path, *module.A.shape))


def test_skipped_eva_is_reported_and_the_ranks_are_equal(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(2), tiny_base.tokenizer, max_length=512)
    messages: list[str] = []
    adapter = starting_adapter.attach(
        tiny_base, LoRAConfig(rank="auto", init="eva"), examples, seed=0, report_message=messages.append
    )
    assert "skipped" in messages[0]
    assert {module.rank for module in adapter.weights().modules.values()} == {starting_adapter.GENEROUS_RANK}


def test_init_eva_keeps_the_ranks_and_scales_of_patterns(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    config = LoRAConfig(rank=4, alpha=8.0, init="eva", rank_pattern={"v_proj": 8}, alpha_pattern={"v_proj": 32.0})
    adapter = starting_adapter.attach(tiny_base, config, examples, seed=0, report_message=lambda text: None)
    modules = adapter.weights().modules
    adapter.detach()
    found = eva.find_directions(tiny_base, list(modules), examples, rank=8)
    assert {module.rank for module in modules.values()} == {4, 8}
    for path, module in modules.items():
        assert (module.rank, module.scale) == ((8, 4.0) if path.endswith("v_proj") else (4, 2.0))
        assert torch.equal(module.A, found.rows[path][: module.rank])


@pytest.mark.parametrize("rslora", [False, True])
def test_an_automatic_rank_has_the_scale_that_alpha_gives_at_rank_16(rslora: bool, tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=32.0, use_rslora=rslora)
    examples = tokenize_all(lessons(12), tiny_base.tokenizer, max_length=512)  # EVA needs more
    adapter = starting_adapter.attach(tiny_base, config, examples, seed=0, report_message=lambda text: None)
    scales = {module.scale for module in adapter.weights().modules.values()}
    adapter.detach()
    assert scales == {8.0 if rslora else 2.0}


def test_a_budget_below_one_direction_is_refused_before_training(tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=16.0, rank_budget=5)
    steps: list[int] = []
    with pytest.raises(errors.InvalidSpec, match="rank_budget"):
        loop.train(tiny_base, config, TRAINING, lessons(40), should_stop=lambda: steps.append(1))
    assert not steps


@pytest.mark.parametrize(("field", "value"), [("rank", "auto"), ("init", "eva")])
def test_an_adapter_without_data_refuses_settings_that_need_training_data(
    field: str, value: str, tiny_base: Base
) -> None:
    with pytest.raises(errors.InvalidSpec, match=rf"{field}: '{value}' needs training data.*fine_tune"):
        LoRAAdapter(LoRAConfig.of({field: value}), tiny_base)
