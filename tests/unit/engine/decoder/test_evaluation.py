"""Held-out loss over batches that are computed at once."""

from __future__ import annotations

import pytest
import torch
from support.training import lessons

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.numerics.concurrency import MAX_TASKS
from finch_hub.specs.lora import LoRAConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")


def test_held_out_loss_does_not_depend_on_the_number_of_threads(tiny_bases: Base) -> None:
    AttachableAdapter(LORA, tiny_bases)
    examples = tokenize_all(lessons(20), tiny_bases.tokenizer, max_length=512)
    measured = []
    for threads in (1, 3, MAX_TASKS + 1):
        torch.set_num_threads(threads)
        measured.append(evaluation.measure(tiny_bases, examples))
    for other in measured[1:]:
        assert other.loss == pytest.approx(measured[0].loss, rel=1e-5)
        assert other.example_losses == pytest.approx(measured[0].example_losses, rel=1e-4)
        assert (other.tokens, other.accuracy) == (measured[0].tokens, measured[0].accuracy)
