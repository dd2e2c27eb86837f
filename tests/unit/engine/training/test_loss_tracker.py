"""Divergence, found in the losses that are read from the device."""

from __future__ import annotations

import time

import pytest
import torch
from support.training import started

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def test_a_loss_above_guessing_diverges_unless_training_began_there(tiny_base: Base) -> None:
    for losses in ([12.0, 11.0, 12.5], [2.0, 3.0, 2.5]):
        adapter = AttachableAdapter(LORA, tiny_base)
        running = started(tiny_base, QUICK.evolve(epochs=9), adapter)
        for loss in (*losses, 100.0, 100.0):
            running.reporter._last = time.monotonic() + 3600  # no report is due
            running.apply_gradients(torch.tensor(loss), seconds=0.1)
        with pytest.raises(errors.Diverged, match=r"diverged at step 4: .*worse than guessing"):
            running.save()
        running.close()
        adapter.detach()
