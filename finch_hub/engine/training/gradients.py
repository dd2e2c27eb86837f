"""The gradient of a step: of one run or several, over micro-batches, and in parts side by side."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finch_hub.engine.data import batches
from finch_hub.engine.decoder.decoder import Decoder
from finch_hub.engine.decoder.loss import head_losses
from finch_hub.engine.decoder.packed import PackedDecoder, Part
from finch_hub.engine.numerics.concurrency import MOST, side_by_side
from finch_hub.engine.training.run import Run

Gradients = list[tuple[nn.Parameter, Tensor]]


class _Owned(NamedTuple):
    """A part and the place of the run whose it is."""

    place: int
    part: Part


def accumulate(decoder: Decoder, runs: Sequence[Run], micro: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
    """Accumulate each run's gradient of the mean loss over its step's label tokens; return these losses, 0-dim.

    Args:
        decoder: a `PackedDecoder` where there are several runs.
        runs: whose gradients are replaced.
        micro: of each run, the examples of its micro-batches.

    """
    totals = [torch.zeros((), device=run.base.device) for run in runs]
    for run in runs:
        run.clear()
    for number in range(max(len(some) for some in micro)):
        owned = [
            _Owned(place, part)
            for place, (run, some) in enumerate(zip(runs, micro, strict=True))
            if number < len(some)
            for part in run.parts(number, some[number])
        ]
        decoder.remember([one.part.batch for one in owned])
        groups = _groups(owned)
        tasks = [functools.partial(_gradients, decoder, runs, group) for group in groups]
        for group, (losses, gradients) in zip(groups, side_by_side(tasks), strict=True):
            for one, loss in zip(group, losses, strict=True):
                totals[one.place] += loss
            for parameter, gradient in gradients:
                # The optimiser's memory, of which this is a view.
                parameter.grad.add_(gradient)  # type: ignore[union-attr]
    return totals


def _groups(owned: Sequence[_Owned]) -> list[list[_Owned]]:
    """Divide parts among threads; those of one group are computed at once."""
    tokens = [len(one.part.batch.input_ids) for one in owned]
    ways = min(torch.get_num_threads(), MOST, len(owned))
    found = batches.balanced(tokens, ways)
    while len(found) > 1 and min(sum(tokens[place] for place in places) for places in found) < batches.LEAST_TOKENS:
        found = batches.balanced(tokens, len(found) - 1)
    return [[owned[place] for place in places] for places in found]


def _gradients(decoder: Decoder, runs: Sequence[Run], group: Sequence[_Owned]) -> tuple[list[Tensor], Gradients]:
    """Return the loss of each part, and the gradients of the adapters that they go through."""
    if isinstance(decoder, PackedDecoder):
        hidden = decoder.hidden_of([one.part for one in group])
    else:
        hidden = [decoder.hidden(one.part.batch, seed=one.part.seed) for one in group]
    # One product for all: the head is the largest matrix of all, and reading it takes longer than few rows' products.
    targets = torch.cat([one.part.batch.targets for one in group])
    scales = [
        torch.full(one.part.batch.targets.shape, 1.0 / runs[one.place].label_tokens(), device=targets.device)
        for one in group
    ]
    losses = head_losses(torch.cat(hidden), runs[0].head.product, targets, torch.cat(scales))
    places = sorted({one.place for one in group})
    parameters = [parameter for place in places for parameter in runs[place].adapter.parameters().values()]
    found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    pairs = [(p, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    each = torch.split(losses.detach(), [len(scale) for scale in scales])
    return [own.sum() for own in each], pairs
