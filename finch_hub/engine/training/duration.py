"""Estimate of a training's duration, before its first step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from finch_hub.engine.decoder.decoder import Decoder
from finch_hub.engine.training.gradients import accumulate_gradients, is_out_of_memory
from finch_hub.engine.training.run import TrainingRun

_MEASURED_SHARE = 64  # one of this many examples is computed for the estimate


def estimate_seconds(decoder: Decoder, runs: Sequence[TrainingRun]) -> list[float | None]:
    """Estimate the seconds that all steps of each run take, computed together; None if finished or out of memory.

    A few examples are computed twice, and the second time is measured. The first pass starts threads, allocates memory
    and prepares weights and frozen states. A token takes up to twice as long with few examples as with many.
    """
    active = [run for run in runs if not run.is_finished]
    if not active:
        return [None] * len(runs)
    batches = [run.batches for run in active]
    num_examples = sum(round(len(each.lengths) * each.steps / each.steps_per_epoch) for each in batches)
    remaining = max(1, num_examples // _MEASURED_SHARE)
    sample: dict[TrainingRun, tuple[int, ...]] = {}
    for run in active:
        if remaining > 0:
            sample[run] = run.micro_batches()[0][:remaining]
            remaining -= len(sample[run])
    measured, micro_batches = list(sample), [[rows] for rows in sample.values()]
    device = measured[0].base.device
    try:
        accumulate_gradients(decoder, measured, micro_batches)
        _wait_for(device)
        began = time.monotonic()
        accumulate_gradients(decoder, measured, micro_batches)
        _wait_for(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return [None] * len(runs)
    finally:
        for run in measured:
            run.clear_gradients()
    tokens = sum(run.batches.lengths[row] for run, rows in sample.items() for row in rows)
    per_token = (time.monotonic() - began) / tokens

    def seconds(run: TrainingRun) -> float:
        """Return the seconds until the run ends, with those of other runs' tokens in the same steps."""
        return per_token * sum(
            min(run.batches.steps, other.steps) * sum(other.lengths) / other.steps_per_epoch for other in batches
        )

    return [None if run.is_finished else seconds(run) for run in runs]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
