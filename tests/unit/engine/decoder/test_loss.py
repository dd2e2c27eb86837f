"""Losses of tokens, compared with torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.training import adapted, gradients, lessons, random_tensor
from torch import Tensor

from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.frozen_linear import get_frozen_linear
from finch_hub.engine.decoder.loss import Head, head_losses, token_losses
from finch_hub.engine.decoder.padded import PaddedDecoder


class LinearModel(torch.nn.Module):
    """Model that is a head, without layers."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        self.head.weight.data = weight
        if bias is not None:
            self.head.bias.data = bias

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def get_decoder(self) -> torch.nn.Module:
        return torch.nn.Identity()


def head_of(weight: Tensor, bias: Tensor | None, *, is_prepacked: bool) -> Head:
    model: Any = LinearModel(weight, bias)
    head = Head(model, is_linear=True)
    head.linear = get_frozen_linear([model.head], is_prepacked=is_prepacked)
    return head


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [3, 300])  # less than one chunk, and several chunks
@pytest.mark.parametrize("is_prepacked", [True, False])
def test_head_losses_equal_torchs_cross_entropy(rows: int, biased: bool, is_prepacked: bool) -> None:
    hidden = random_tensor(rows, 6).detach().float().requires_grad_()
    weight = random_tensor(11, 6, seed=1, grad=False).float()
    bias = random_tensor(11, seed=2, grad=False).float() if biased else None
    targets = torch.arange(rows) * 7 % 11
    scales = torch.linspace(0.1, 0.4, rows)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * scales
    head = head_of(weight, bias, is_prepacked=is_prepacked)
    found = head_losses(hidden, head, targets, scales)
    assert torch.allclose(found, expected, rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), hidden)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)
    losses, correct = token_losses(hidden, head, targets)
    assert torch.allclose(losses * scales, expected, rtol=1e-5)
    assert torch.equal(correct, logits.argmax(-1) == targets)


def test_the_first_of_equal_logits_is_the_prediction() -> None:
    head = head_of(torch.tensor([[1.0], [2.0], [2.0], [2.0]]), None, is_prepacked=False)
    _, correct = token_losses(torch.ones(4, 1), head, torch.arange(4))
    assert correct.tolist() == [False, True, False, False]


def test_the_loss_of_an_impossible_token_is_large_and_finite() -> None:
    hidden, weight = torch.ones(1, 1), torch.tensor([[200.0], [-200.0]])
    losses, _ = token_losses(hidden, head_of(weight, None, is_prepacked=False), torch.tensor([1]))
    assert losses.tolist() == [400.0]


def test_training_loss_of_an_impossible_token_is_large_and_finite() -> None:
    """Its probability is below the least float32."""
    hidden, weight = torch.ones(1, 1, requires_grad=True), torch.tensor([[200.0], [-200.0]])
    head = head_of(weight, None, is_prepacked=False)
    loss = head_losses(hidden, head, torch.tensor([1]), torch.ones(1))
    assert loss.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    loss.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(400.0)


def test_float16_gradients_do_not_vanish_in_a_step_of_ten_thousand_label_tokens(tiny_base: Base) -> None:
    """Such gradients lie near the least numbers of float16, and must still be more accurate than in bfloat16."""
    examples = tokenize_all(lessons(8), tiny_base.tokenizer, max_length=512)
    batch = pack(examples, share_prefix=False)
    adapter = adapted(tiny_base)
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, parameter in tiny_base.model.named_parameters():
            if ".lora_" not in name:
                parameter.data = parameter.data.to(dtype)
        head = Head(tiny_base.model, is_linear=True)
        hidden = PaddedDecoder(tiny_base.model).hidden_states(batch)
        scales = torch.full(batch.targets.shape, 1e-4)
        head_losses(hidden, head, batch.targets, scales).sum().backward()
        found[dtype] = torch.cat([gradient.flatten() for gradient in gradients(adapter).values()])
    exact = found.pop(torch.float32)
    errors = {dtype: float((gradient - exact).norm() / exact.norm()) for dtype, gradient in found.items()}
    assert errors[torch.float16] < errors[torch.bfloat16] < 0.1
