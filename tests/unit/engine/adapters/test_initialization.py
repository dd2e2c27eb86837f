"""Initial A: the same numbers everywhere, nested over ranks, distributed as PEFT's."""

from __future__ import annotations

import math

import pytest
import torch

from finch_hub.engine.adapters.initialization import make_initial_a

PATH = "model.layers.0.self_attn.q_proj"


def test_numbers_never_change() -> None:
    # Adapters of years must share them: a change here is a change of every base's common subspace.
    first = make_initial_a(PATH, 2, 64)[0, :3].tolist()
    assert first == [0.11187347769737244, 0.11195379495620728, 0.016241729259490967]


def test_smaller_rank_is_the_first_rows_of_a_larger_one() -> None:
    assert torch.equal(make_initial_a(PATH, 8, 64), make_initial_a(PATH, 16, 64)[:8])


def test_module_width_and_seed_change_the_numbers() -> None:
    a = make_initial_a(PATH, 16, 64)
    for other in (
        make_initial_a("model.layers.1.self_attn.q_proj", 16, 64),
        make_initial_a(PATH, 16, 65)[:, :64],
        make_initial_a(PATH, 16, 64, seed="random 0"),
    ):
        # Independent rows of 64 have cosines of about 1/8.
        assert torch.nn.functional.cosine_similarity(a, other).abs().mean() < 0.25


def test_distribution_is_that_of_kaiming_uniform() -> None:
    width = 1024
    a = make_initial_a(PATH, 64, width)
    theirs = torch.empty(64, width)
    torch.nn.init.kaiming_uniform_(theirs, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(width)
    assert a.dtype == torch.float32
    assert a.abs().max() <= bound
    assert a.abs().max() > 0.999 * bound
    assert a.mean().abs() < 0.01 * bound
    assert a.std() == pytest.approx(theirs.std().item(), rel=0.01)
    # Rows are independent: the Gram matrix is close to the identity, scaled.
    gram = a @ a.T * (3 / bound**2 / width)
    assert (gram - torch.eye(64)).abs().max() < 0.25
