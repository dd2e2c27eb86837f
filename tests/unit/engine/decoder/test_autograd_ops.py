"""The fused operations against torch's own, forward and backward, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from finch_hub.engine.decoder import frozen_linear
from finch_hub.engine.decoder.attention import Layout, Spans, attention
from finch_hub.engine.decoder.autograd_ops import Update, linears, rms_norm, swiglu
from finch_hub.engine.decoder.frozen_linear import Product, can_prepare, product_of
from finch_hub.engine.decoder.loss import head_losses, token_losses


def random(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(grad)


def test_swiglu_equals_silu_times_up() -> None:
    joined = random(5, 14)
    assert torch.allclose(swiglu(joined), torch.nn.functional.silu(joined[:, :7]) * joined[:, 7:])
    assert gradcheck(swiglu, joined)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_adapted_linears_have_the_gradients_of_their_formula(dropout: float) -> None:
    biased, plain = nn.Linear(5, 6, dtype=torch.float64), nn.Linear(5, 4, bias=False, dtype=torch.float64)
    product = Product([biased, plain], prepared=False)
    left, right = product.columns()

    def both(x: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        first = Update(rows=slice(0, 3), columns=left, A=A, B=B, scale=0.5, dropout=dropout, seed=3)
        second = Update(rows=slice(2, 7), columns=left, A=A, B=B, scale=2.0)
        third = Update(rows=slice(2, 7), columns=right, A=C, B=D, scale=2.0)
        others = torch.tensor([[False, True], [True, False]])
        fourth = Update(rows=slice(5, 7), columns=left, A=A, B=B, scale=3.0, others=others)
        return linears(x, product, [first, second, third, fourth])

    x = random(7, 5, seed=2)
    factors = random(2, 5, seed=3), random(6, 2, seed=4), random(3, 5, seed=5), random(4, 3, seed=6)
    assert gradcheck(both, (x, *factors))
    if not dropout:
        expected = plain(x)
        expected[2:] += 2.0 * x[2:] @ factors[2].T @ factors[3].T
        assert torch.allclose(both(x, *factors)[:, right], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 700])
@pytest.mark.parametrize("prepared", [True, False])
def test_a_product_is_that_of_its_modules(prepared: bool, rows: int, dtype: torch.dtype) -> None:
    modules = [nn.Linear(64, size, bias=size != 48, dtype=dtype) for size in (96, 48, 80)]
    if prepared and not can_prepare(modules):
        pytest.skip("this build of torch cannot prepare weights")
    product = Product(modules, prepared=prepared)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    x = random(rows, 64, grad=False).to(dtype)
    expected = torch.cat([module(x) for module in modules], dim=1)
    assert torch.allclose(product.forward(x), expected, rtol=tolerance, atol=tolerance)
    gradient = random(rows, 224, seed=1, grad=False).to(dtype)
    weight = torch.cat([module.weight for module in modules])
    assert torch.allclose(
        product.backward(gradient).float(), gradient.float() @ weight.float(), rtol=tolerance, atol=5 * tolerance
    )


def test_a_product_is_made_once_and_again_where_a_weight_has_changed() -> None:
    modules = [nn.Linear(8, 8).requires_grad_(False) for _ in range(2)]
    first = product_of(modules, prepared=False)
    assert product_of(modules, prepared=False) is first
    modules[1].weight.mul_(2)
    second = product_of(modules, prepared=False)
    assert second is not first
    modules[0].weight = nn.Parameter(modules[0].weight.clone(), requires_grad=False)
    third = product_of(modules, prepared=False)
    assert third is not second
    modules[1].bias.zero_()
    assert product_of(modules, prepared=False) is not third


def test_weights_are_prepared_within_a_limit_and_of_known_types_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_prepare([nn.Linear(8, 8, dtype=torch.float64)])
    assert not can_prepare([nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.bfloat16)])
    monkeypatch.setattr(frozen_linear, "PREPARED_BYTES", 0)
    assert not can_prepare([nn.Linear(8, 8)])


def test_attention_sees_its_prefix_and_its_own_past_only() -> None:
    """Against torch's attention with an explicit mask over all tokens; two query heads share one of keys."""
    groups = [
        Spans(prefix=range(0), runs=(range(2),)),
        Spans(prefix=range(2), runs=(range(2, 5), range(5, 7))),
        Spans(prefix=range(0), runs=(range(7, 9),)),
    ]
    layout = Layout(groups, heads=4, key_heads=2, device=torch.device("cpu"))
    sees = torch.zeros(9, 9, dtype=torch.bool)
    for prefix, runs in ((0, [(0, 2), (7, 9)]), (2, [(2, 5), (5, 7)])):
        for begin, end in runs:
            sees[begin:end, :prefix] = True
            sees[begin:end, begin:end] = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
    query, key, value = random(9, 4, 6), random(9, 2, 6, seed=1), random(9, 2, 6, seed=2)
    angle = random(9, 1, 3, seed=3, grad=False)
    cos, sin = angle.cos(), angle.sin()

    def rotated(x: Tensor) -> Tensor:
        first, second = x[..., :3], x[..., 3:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    expected = torch.nn.functional.scaled_dot_product_attention(
        rotated(query).transpose(0, 1)[None],
        rotated(key).transpose(0, 1).repeat_interleave(2, 0)[None],
        value.transpose(0, 1).repeat_interleave(2, 0)[None],
        attn_mask=sees,
        scale=0.3,
    )[0].transpose(0, 1)
    found = attention(query, key, value, cos, sin, layout=layout, scale=0.3)
    assert torch.allclose(found, expected, atol=1e-6)
    probe = random(9, 4, 6, seed=4, grad=False)
    for one, other in zip(
        torch.autograd.grad((found * probe).sum(), (query, key, value)),
        torch.autograd.grad((expected * probe).sum(), (query, key, value)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_norm_is_transformers() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(8, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x = random(5, 8).detach().float().requires_grad_()
    found, expected = rms_norm(x, norm.weight.detach(), 1e-3), norm(x)
    assert torch.allclose(found, expected, atol=1e-6)
    probe = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    (one,) = torch.autograd.grad((found * probe).sum(), x)
    (other,) = torch.autograd.grad((expected * probe).sum(), x)
    assert torch.allclose(one, other, atol=1e-5)


def head_of(weight: Tensor, bias: Tensor | None, *, prepared: bool) -> Product:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight
    if bias is not None:
        linear.bias.data = bias
    return product_of([linear], prepared=prepared)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [3, 300])  # below one chunk, and over several
@pytest.mark.parametrize("prepared", [True, False])
def test_the_head_losses_equal_torchs_cross_entropy(rows: int, biased: bool, prepared: bool) -> None:
    hidden = random(rows, 6).detach().float().requires_grad_()
    weight = random(11, 6, seed=1, grad=False).float()
    bias = random(11, seed=2, grad=False).float() if biased else None
    targets = torch.arange(rows) * 7 % 11
    scales = torch.linspace(0.1, 0.4, rows)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * scales
    product = head_of(weight, bias, prepared=prepared)
    found = head_losses(hidden, product, targets, scales)
    assert torch.allclose(found, expected, rtol=1e-5)
    (one,), (other,) = torch.autograd.grad(found.sum(), hidden), torch.autograd.grad(expected.sum(), hidden)
    assert torch.allclose(one, other, atol=1e-6)
    losses, right = token_losses(hidden, product, targets)
    assert torch.allclose(losses * scales, expected, rtol=1e-5)
    assert torch.equal(right, logits.argmax(-1) == targets)


def test_of_equal_logits_the_first_is_the_largest() -> None:
    product = head_of(torch.tensor([[1.0], [2.0], [2.0], [2.0]]), None, prepared=False)
    _, right = token_losses(torch.ones(4, 1), product, torch.arange(4))
    assert right.tolist() == [False, True, False, False]


def test_the_loss_of_a_token_that_seems_impossible_is_large_and_finite() -> None:
    hidden, weight = torch.ones(1, 1), torch.tensor([[200.0], [-200.0]])
    losses, _ = token_losses(hidden, head_of(weight, None, prepared=False), torch.tensor([1]))
    assert losses.tolist() == [400.0]
