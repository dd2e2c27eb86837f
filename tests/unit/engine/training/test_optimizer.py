"""Optimizer over one buffer, compared with AdamW over single tensors."""

from __future__ import annotations

import pytest
import torch

from finch_hub.engine.training.optimizer import FlatAdamW
from finch_hub.specs.training import TrainingConfig

SHAPES = {"q.lora_A.weight": (2, 5), "q.lora_B.weight": (3, 2), "v.lora_A.weight": (2, 5), "v.lora_B.weight": (4, 2)}


def parameters() -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_flat_adamw_equals_adamw_over_single_tensors(clip: float) -> None:
    config = TrainingConfig(weight_decay=0.1, loraplus_ratio=4.0, max_grad_norm=clip)
    flat_parameters, single_parameters = parameters(), parameters()
    flat = FlatAdamW(flat_parameters, config)
    plain = torch.optim.AdamW(
        [
            {"params": [p for name, p in single_parameters.items() if "lora_A" in name], "lr": 0.01},
            {"params": [p for name, p in single_parameters.items() if "lora_B" in name], "lr": 0.04},
        ],
        weight_decay=0.1,
    )
    for step in range(4):
        flat.zero_grad()
        plain.zero_grad()
        for group in (flat_parameters, single_parameters):
            torch.stack([(p * (step + 1)).sin().sum() for p in group.values()]).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(single_parameters.values(), clip or torch.inf)
        assert flat.step(0.01) == pytest.approx(float(norm), rel=1e-5)
        plain.step()
    for name, parameter in flat_parameters.items():
        assert torch.allclose(parameter, single_parameters[name], atol=1e-6), name


def test_a_restored_state_continues_bit_for_bit() -> None:
    def steps(flat: FlatAdamW, trained: dict[str, torch.nn.Parameter], count: int) -> None:
        for _ in range(count):
            flat.zero_grad()
            torch.stack([p.sin().sum() for p in trained.values()]).sum().backward()
            flat.step(0.01)

    config = TrainingConfig()
    first, second = parameters(), parameters()
    whole, begun, resumed = FlatAdamW(first, config), FlatAdamW(second, config), None
    steps(whole, first, 6)
    steps(begun, second, 3)
    third = parameters()
    resumed = FlatAdamW(third, config)
    resumed.load_state_dict(begun.state_dict())
    steps(resumed, third, 3)
    assert all(torch.equal(first[name], third[name]) for name in first)


def test_a_gradient_that_is_not_finite_changes_no_parameter() -> None:
    adapter = parameters()
    flat = FlatAdamW(adapter, TrainingConfig())
    before = flat.state_dict()
    next(iter(adapter.values())).grad.fill_(torch.nan)  # type: ignore[union-attr]
    assert not torch.isfinite(flat.step(0.01))
    assert all(torch.equal(before[name], flat.state_dict()[name]) for name in before)


def test_released_parameters_own_their_memory() -> None:
    adapter = parameters()
    flat = FlatAdamW(adapter, TrainingConfig())
    flat.release()
    values = [p.clone() for p in adapter.values()]
    flat.set_parameters([torch.zeros_like(flat_values) for flat_values in flat.copy_parameters()])
    assert all(torch.equal(p, value) for p, value in zip(adapter.values(), values, strict=True))
    assert all(p.grad is None for p in adapter.values())
