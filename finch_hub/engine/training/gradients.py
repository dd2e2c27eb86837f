"""Gradients of a step: of one run or several, over micro-batches, in parts side by side."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finch_hub.engine.data import batch_plan
from finch_hub.engine.decoder.decoder import Decoder
from finch_hub.engine.decoder.loss import head_losses
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.packed_layer import AdapterBatch
from finch_hub.engine.numerics.concurrency import MAX_TASKS, run_in_parallel
from finch_hub.engine.training.run import TrainingRun

MicroBatches = Sequence[Sequence[int]]
"""Places of the examples in each micro-batch of a step."""


class _RunPart(NamedTuple):
    """Part of a micro-batch, and the place of its run among the runs."""

    run: int
    part: AdapterBatch


def accumulate_gradients(
    decoder: Decoder, runs: Sequence[TrainingRun], micro_batches: Sequence[MicroBatches]
) -> list[Tensor]:
    """Compute each run's gradient of the mean loss over its step's label tokens, and return these losses, 0-dim."""
    totals = [torch.zeros((), device=run.base.device) for run in runs]
    for run in runs:
        run.clear_gradients()
    for number in range(max(len(batches) for batches in micro_batches)):
        parts = [
            _RunPart(place, part)
            for place, (run, batches) in enumerate(zip(runs, micro_batches, strict=True))
            if number < len(batches)
            for part in run.parts(number, batches[number])
        ]
        decoder.cache_frozen_states([part.batch for _, part in parts])
        groups = _divide_among_threads(parts)
        tasks = [functools.partial(_compute_gradients, decoder, runs, group) for group in groups]
        for group, (losses, gradients) in zip(groups, run_in_parallel(tasks), strict=True):
            for (place, _), loss in zip(group, losses, strict=True):
                totals[place] += loss
            for parameter, gradient in gradients:
                # The gradient is a view of the optimizer's buffer.
                parameter.grad.add_(gradient)  # type: ignore[union-attr]
    return totals


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the computation of gradients failed because memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _divide_among_threads(parts: Sequence[_RunPart]) -> list[list[_RunPart]]:
    """Divide parts into groups, each of which is computed at once by one thread."""
    tokens = [len(part.batch.input_ids) for _, part in parts]
    ways = min(torch.get_num_threads(), MAX_TASKS, len(parts))
    groups = batch_plan.balance(tokens, ways)
    while len(groups) > 1 and min(sum(tokens[part] for part in group) for group in groups) < batch_plan.LEAST_TOKENS:
        groups = batch_plan.balance(tokens, len(groups) - 1)
    return [[parts[place] for place in group] for group in groups]


def _compute_gradients(
    decoder: Decoder, runs: Sequence[TrainingRun], group: Sequence[_RunPart]
) -> tuple[list[Tensor], list[tuple[nn.Parameter, Tensor]]]:
    """Return the loss of each part, and the gradients of the runs' parameters."""
    batches = [part for _, part in group]
    if isinstance(decoder, PackedDecoder):
        hidden = decoder.hidden_states_of(batches)
    else:
        hidden = [decoder.hidden_states(part.batch, seed=part.seed) for part in batches]
    # One product for all parts: reading the head's large matrix takes longer than the products of a few rows.
    targets = torch.cat([part.batch.targets for part in batches])
    scales = [
        torch.full(part.batch.targets.shape, 1.0 / runs[place].label_tokens(), device=targets.device)
        for place, part in group
    ]
    losses = head_losses(torch.cat(hidden), runs[0].head, targets, torch.cat(scales))
    places = sorted({place for place, _ in group})
    parameters = [parameter for place in places for parameter in runs[place].adapter.parameters().values()]
    gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    pairs = [(p, gradient) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    part_losses = torch.split(losses.detach(), [len(scale) for scale in scales])
    return [part_loss.sum() for part_loss in part_losses], pairs
