"""Logits of hidden states, compared with the whole forward of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import FAMILIES, Family, make_model

from finch_hub.engine.decoder.own_head import OwnHead, has_linear_head

IDS = torch.arange(20, 50)[None]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_logits_of_the_last_hidden_states_are_the_models(family: Family) -> None:
    model = make_model(family)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state[0]
        logits = model(input_ids=IDS, use_cache=False).logits[0]
        assert torch.allclose(OwnHead(model).logits(hidden), logits, atol=1e-5)
        assert torch.equal(model(input_ids=IDS, use_cache=False).logits[0], logits)  # the body computes again


def test_a_forward_that_was_replaced_before_is_kept() -> None:
    model = make_model(FAMILIES[0])
    body: Any = model.get_decoder()
    own, calls = body.forward, []

    def forward(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return own(*args, **options)

    body.forward = forward
    OwnHead(model).logits(torch.zeros(3, 64))
    assert not calls
    model(input_ids=IDS)
    assert len(calls) == 1


def test_a_head_with_a_hook_or_a_wrapper_is_not_linear() -> None:
    model = make_model(FAMILIES[0])
    head = model.get_output_embeddings()
    assert has_linear_head(model)
    hook = head.register_forward_hook(lambda *_: None)
    assert not has_linear_head(model)
    hook.remove()
    model.set_output_embeddings(torch.nn.Sequential(head))
    assert not has_linear_head(model)
