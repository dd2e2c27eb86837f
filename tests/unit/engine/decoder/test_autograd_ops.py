"""Operations with their own backward pass, compared with torch in double precision."""

from __future__ import annotations

import pytest
import torch
from support.training import random_tensor
from torch import Tensor, nn
from torch.autograd import gradcheck

from finch_hub.engine.decoder.autograd_ops import adapted_linear, rms_norm, swiglu
from finch_hub.engine.decoder.frozen_linear import FrozenLinear
from finch_hub.engine.decoder.low_rank_updates import LowRankUpdate


def test_swiglu_equals_silu_times_up() -> None:
    joined = random_tensor(5, 14)
    assert torch.allclose(swiglu(joined), torch.nn.functional.silu(joined[:, :7]) * joined[:, 7:])
    assert gradcheck(swiglu, joined)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_adapted_linear_has_the_gradients_of_its_formula(dropout: float) -> None:
    biased, plain = nn.Linear(5, 6, dtype=torch.float64), nn.Linear(5, 4, bias=False, dtype=torch.float64)
    product = FrozenLinear([biased, plain], is_prepacked=False)
    left, right = product.columns()

    def both(x: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        first = LowRankUpdate(rows=slice(0, 3), columns=left, A=A, B=B, scale=0.5, dropout=dropout, seed=3)
        second = LowRankUpdate(rows=slice(2, 7), columns=left, A=A, B=B, scale=2.0)
        third = LowRankUpdate(rows=slice(2, 7), columns=right, A=C, B=D, scale=2.0)
        masked_ranks = torch.tensor([[False, True], [True, False]])
        fourth = LowRankUpdate(rows=slice(5, 7), columns=left, A=A, B=B, scale=3.0, masked_ranks=masked_ranks)
        return adapted_linear(x, product, [first, second, third, fourth])

    x = random_tensor(7, 5, seed=2)
    factors = (
        random_tensor(2, 5, seed=3),
        random_tensor(6, 2, seed=4),
        random_tensor(3, 5, seed=5),
        random_tensor(4, 3, seed=6),
    )
    assert gradcheck(both, (x, *factors))
    if not dropout:
        expected = plain(x)
        expected[2:] += 2.0 * x[2:] @ factors[2].T @ factors[3].T
        assert torch.allclose(both(x, *factors)[:, right], expected)


def test_rms_norm_equals_transformers() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(8, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x = random_tensor(5, 8).detach().float().requires_grad_()
    found, expected = rms_norm(x, norm.weight.detach(), 1e-3), norm(x)
    assert torch.allclose(found, expected, atol=1e-6)
    probe = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((found * probe).sum(), x)
    (expected_gradient,) = torch.autograd.grad((expected * probe).sum(), x)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)
