"""Attention over packed tokens, compared with torch."""

from __future__ import annotations

import torch
from support.training import random_tensor
from torch import Tensor

from finch_hub.engine.decoder.attention import attention
from finch_hub.engine.decoder.attention_layout import GridLayout, SequenceGroup


def test_a_token_attends_only_to_its_prefix_and_its_own_past() -> None:
    """Compare with torch's attention and an explicit mask; two query heads share a key head."""
    groups = [
        SequenceGroup(prefix=range(0), sequences=(range(2),)),
        SequenceGroup(prefix=range(2), sequences=(range(2, 5), range(5, 7))),
        SequenceGroup(prefix=range(0), sequences=(range(7, 9),)),
    ]
    layout = GridLayout(groups, heads=4, key_heads=2, device=torch.device("cpu"))
    sees = torch.zeros(9, 9, dtype=torch.bool)
    for prefix, runs in ((0, [(0, 2), (7, 9)]), (2, [(2, 5), (5, 7)])):
        for begin, end in runs:
            sees[begin:end, :prefix] = True
            sees[begin:end, begin:end] = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
    query, key, value = random_tensor(9, 4, 6), random_tensor(9, 2, 6, seed=1), random_tensor(9, 2, 6, seed=2)
    angle = random_tensor(9, 1, 3, seed=3, grad=False)
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
    probe = random_tensor(9, 4, 6, seed=4, grad=False)
    for gradient, expected_gradient in zip(
        torch.autograd.grad((found * probe).sum(), (query, key, value)),
        torch.autograd.grad((expected * probe).sum(), (query, key, value)),
        strict=True,
    ):
        assert torch.allclose(gradient, expected_gradient, atol=1e-5)
