from __future__ import annotations

import pytest
import torch

from finch_hub.engine.training.optimizer import FlatAdamW
from finch_hub.engine.training.schedule import factor, warmup_steps
from finch_hub.engine.training.stopping import Stopping
from finch_hub.specs.training import TrainingConfig

SHAPES = {"q.lora_A.weight": (2, 5), "q.lora_B.weight": (3, 2), "v.lora_A.weight": (2, 5), "v.lora_B.weight": (4, 2)}


def parameters() -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_it_is_torchs_adamw_with_one_tensor_after_the_other(clip: float) -> None:
    config = TrainingConfig(weight_decay=0.1, loraplus_ratio=4.0, max_grad_norm=clip)
    ours, theirs = parameters(), parameters()
    flat = FlatAdamW(ours, config)
    plain = torch.optim.AdamW(
        [
            {"params": [p for name, p in theirs.items() if "lora_A" in name], "lr": 0.01},
            {"params": [p for name, p in theirs.items() if "lora_B" in name], "lr": 0.04},
        ],
        weight_decay=0.1,
    )
    for step in range(4):
        flat.zero_grad()
        plain.zero_grad()
        for some in (ours, theirs):
            torch.stack([(p * (step + 1)).sin().sum() for p in some.values()]).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), clip or torch.inf)
        assert flat.step(0.01) == pytest.approx(float(norm), rel=1e-5)
        plain.step()
    for name, parameter in ours.items():
        assert torch.allclose(parameter, theirs[name], atol=1e-6), name


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    def steps(flat: FlatAdamW, some: dict[str, torch.nn.Parameter], count: int) -> None:
        for _ in range(count):
            flat.zero_grad()
            torch.stack([p.sin().sum() for p in some.values()]).sum().backward()
            flat.step(0.01)

    config = TrainingConfig()
    first, second = parameters(), parameters()
    whole, begun, resumed = FlatAdamW(first, config), FlatAdamW(second, config), None
    steps(whole, first, 6)
    steps(begun, second, 3)
    third = parameters()
    resumed = FlatAdamW(third, config)
    resumed.load(begun.state())
    steps(resumed, third, 3)
    assert all(torch.equal(first[name], third[name]) for name in first)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    some = parameters()
    flat = FlatAdamW(some, TrainingConfig())
    before = flat.state()
    next(iter(some.values())).grad.fill_(torch.nan)  # type: ignore[union-attr]
    assert not torch.isfinite(flat.step(0.01))
    assert all(torch.equal(before[name], flat.state()[name]) for name in before)


def test_released_parameters_are_their_own_again() -> None:
    some = parameters()
    flat = FlatAdamW(some, TrainingConfig())
    flat.release()
    values = [p.clone() for p in some.values()]
    flat.restore([torch.zeros_like(flat_values) for flat_values in flat.snapshot()])
    assert all(torch.equal(p, value) for p, value in zip(some.values(), values, strict=True))
    assert all(p.grad is None for p in some.values())


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_rise_over_the_warm_up_and_never_leave_0_to_1(schedule: str) -> None:
    rates = [factor(step, steps=20, warmup=4, schedule=schedule) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    middle = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[schedule]
    assert rates[12] == pytest.approx(middle)
    end = {"constant": 1.0, "linear": 1 / 16, "cosine": 0.5 * (1 - 0.98078528)}[schedule]
    assert rates[-1] == pytest.approx(end, rel=1e-4)


def test_warm_up_steps_are_as_given_or_a_share_rounded_up() -> None:
    assert warmup_steps(TrainingConfig(warmup_ratio=0.05), 30) == 2
    assert warmup_steps(TrainingConfig(warmup_ratio=0.5, warmup_steps=3), 30) == 3
    assert warmup_steps(TrainingConfig(warmup_ratio=0.0), 30) == 0


def test_stopping_waits_for_an_improvement_that_counts() -> None:
    state = Stopping(patience=2, min_improvement=0.1)
    for step, (loss, due) in enumerate([(2.0, False), (1.5, False), (1.45, False), (1.41, True)]):
        state = state.after(loss, step)
        assert state.due is due
    assert (state.best_loss, state.best_step) == (1.5, 1)
    assert not state.after(1.39, 4).due
    assert not Stopping().after(1.0, 0).after(2.0, 1).due
