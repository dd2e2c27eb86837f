"""Losses that are read from the device, and divergence."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from support.training import started

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training.loss_curve import CurveRecorder
from finch_hub.engine.training.loss_tracker import LossTracker
from finch_hub.engine.training.resume_state import TrainingProgress
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_loss_or_gradient_that_is_not_finite_diverges(loss: float, norm: float, tmp_path: Path) -> None:
    tracker = LossTracker(vocabulary=100, workdir=tmp_path, curve=CurveRecorder())
    tracker.add(1, torch.tensor(2.0), torch.tensor(1.0), 10, 1e-3)
    tracker.add(2, torch.tensor(loss), torch.tensor(norm), 10, 1e-3)
    with pytest.raises(errors.Diverged, match=r"diverged at step 2: .*not finite.*there is no checkpoint"):
        tracker.read(TrainingProgress())
    (tmp_path / "step-00000001").mkdir()
    tracker.add(2, torch.tensor(loss), torch.tensor(norm), 10, 1e-3)
    with pytest.raises(errors.Diverged, match=r"last good checkpoint is .*step-00000001"):
        tracker.read(TrainingProgress())


def test_mean_loss_weighs_label_tokens_and_the_reported_one_is_smooth() -> None:
    tracker = LossTracker(vocabulary=100, workdir=None, curve=CurveRecorder())
    tracker.add(1, torch.tensor(2.0), torch.tensor(0.5), 10, 1e-3)
    tracker.add(2, torch.tensor(1.0), torch.tensor(0.25), 30, 1e-3)
    progress = tracker.read(TrainingProgress())
    assert (progress.loss_sum, progress.label_tokens, progress.first_loss) == (50.0, 40, 2.0)
    assert progress.smoothed_loss == pytest.approx(1.9)
    assert tracker.gradient_norm == 0.25
    assert tracker.read(progress) == progress, "each loss counts once"


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
