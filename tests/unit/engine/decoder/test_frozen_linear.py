"""Products with frozen weights, prepacked or not."""

from __future__ import annotations

import pytest
import torch
from support.training import random_tensor
from torch import nn

from finch_hub.engine.decoder import frozen_linear
from finch_hub.engine.decoder.frozen_linear import FrozenLinear, can_prepack, get_frozen_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 700])
@pytest.mark.parametrize("is_prepacked", [True, False])
def test_frozen_linear_equals_its_modules(is_prepacked: bool, rows: int, dtype: torch.dtype) -> None:
    modules = [nn.Linear(64, size, bias=size != 48, dtype=dtype) for size in (96, 48, 80)]
    if is_prepacked and not can_prepack(modules):
        pytest.skip("this build of torch cannot prepack weights")
    product = FrozenLinear(modules, is_prepacked=is_prepacked)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    x = random_tensor(rows, 64, grad=False).to(dtype)
    expected = torch.cat([module(x) for module in modules], dim=1)
    assert torch.allclose(product.forward(x), expected, rtol=tolerance, atol=tolerance)
    gradient = random_tensor(rows, 224, seed=1, grad=False).to(dtype)
    weight = torch.cat([module.weight for module in modules])
    assert torch.allclose(
        product.backward(gradient).float(), gradient.float() @ weight.float(), rtol=tolerance, atol=5 * tolerance
    )


def test_frozen_linear_is_cached_until_a_weight_changes() -> None:
    modules = [nn.Linear(8, 8).requires_grad_(False) for _ in range(2)]
    first = get_frozen_linear(modules, is_prepacked=False)
    assert get_frozen_linear(modules, is_prepacked=False) is first
    modules[1].weight.mul_(2)
    second = get_frozen_linear(modules, is_prepacked=False)
    assert second is not first
    modules[0].weight = nn.Parameter(modules[0].weight.clone(), requires_grad=False)
    third = get_frozen_linear(modules, is_prepacked=False)
    assert third is not second
    modules[1].bias.zero_()
    assert get_frozen_linear(modules, is_prepacked=False) is not third


def test_weights_are_prepacked_within_the_limit_and_for_supported_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_prepack([nn.Linear(8, 8, dtype=torch.float64)])
    assert not can_prepack([nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.bfloat16)])
    monkeypatch.setattr(frozen_linear, "PREPACKED_BYTES", 0)
    assert not can_prepack([nn.Linear(8, 8)])
