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
    """Estimate the seconds that all steps of each run take on this device, computed together.

    A few examples are computed twice, and the second time is measured. The first pass starts threads, allocates memory
    and prepares weights and frozen states. The cost is a small share of the estimate. A token takes up to twice as long
    with few examples as with many.

    Returns:
        Seconds of each run. None for a finished run, or if memory ran out, which the steps handle.

    """
    active = [run for run in runs if not run.is_finished]
    if not active:
        return [None] * len(runs)
    remaining = max(1, sum(run.batches.num_examples for run in active) // _MEASURED_SHARE)
    measured: list[TrainingRun] = []
    rows: list[tuple[int, ...]] = []
    for run in active:
        if remaining > 0:
            measured.append(run)
            rows.append(run.micro_batches()[0][:remaining])
            remaining -= len(rows[-1])
    micro_batches = [[run_rows] for run_rows in rows]
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
    tokens = sum(run.batches.lengths[row] for run, run_rows in zip(measured, rows, strict=True) for row in run_rows)
    per_token = (time.monotonic() - began) / tokens

    def seconds(run: TrainingRun) -> float:
        """Return the seconds until the run ends, with those of other runs' tokens in the same steps."""
        return per_token * sum(
            min(run.batches.steps, other.batches.steps) * sum(other.batches.lengths) / other.batches.steps_per_epoch
            for other in active
        )

    return [None if run.is_finished else seconds(run) for run in runs]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
