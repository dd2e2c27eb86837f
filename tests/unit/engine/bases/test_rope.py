"""Positions whose frequencies depend on the length of the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import make_model, named

from finch_hub.engine.bases import rope

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("fields", "expected"), [({}, False), ({"rope_parameters": YARN}, False), ({"rope_parameters": DYNAMIC}, True)]
)
def test_only_dynamic_positions_and_longrope_depend_on_the_length(fields: dict[str, Any], expected: bool) -> None:
    assert rope.depends_on_length(make_model(named("llama"), **fields)) is expected
    assert rope.depends_on_length(make_model(named("longrope")))
    assert not rope.depends_on_length(make_model(named("gemma3")))  # a kind of position for each kind of layer
    assert not rope.depends_on_length(make_model(named("gpt2")))


def test_reset_rope_forgets_a_longer_input() -> None:
    model = make_model(named("llama"), rope_parameters=DYNAMIC, max_position_embeddings=16)
    row = torch.arange(20, 60)[None]
    with torch.no_grad():
        alone = model(input_ids=row[:, :24]).logits
        model(input_ids=row)
        after_a_longer_one = model(input_ids=row[:, :24]).logits
        rope.reset_rope(model)
        assert torch.equal(model(input_ids=row[:, :24]).logits, alone)
    assert not torch.allclose(after_a_longer_one, alone)


def test_only_models_that_compute_the_input_again_have_a_switch_length() -> None:
    assert rope.switch_length(make_model(named("llama"))) is None
    model = make_model(named("longrope"))
    model.config.original_max_position_embeddings = 16
    assert rope.switch_length(model) == 16
