"""Module inputs and hidden states of a base while an update is active."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement
from finch_hub.engine.data import batches
from finch_hub.engine.data.tokenizing import TokenizedExample


@torch.no_grad()
def run_forward(
    measurement: Measurement,
    update: Mapping[str, Factors] | None,
    examples: Sequence[TokenizedExample],
    modules: Iterable[str] = (),
    on_input: Callable[[str, Tensor], None] = lambda module, x: None,
) -> Tensor:
    """Return the hidden states [L, d] that predict the completions.

    `on_input` is called with a module path and the input [1, tokens, in] of the module. Modules that share an input
    are called one after another with the same tensor.
    """

    def make_hook(path: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        return lambda module, inputs, output: on_input(path, inputs[0])

    measurement.activate(update)
    model = measurement.base.model
    handles = [model.get_submodule(path).register_forward_hook(make_hook(path)) for path in modules]
    try:
        # One example at a time, so that no module sees a padding token.
        states = [
            measurement.padded_decoder.hidden_states(
                batches.pack([example], share_prefix=False).to(measurement.base.device)
            )
            for example in examples
        ]
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(states).float().cpu()


def collect_projected_moments(
    measurement: Measurement,
    update: Mapping[str, Factors] | None,
    examples: Sequence[TokenizedExample],
    right: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the hidden states, and the second moments ``Vᵀ X Xᵀ V [q, q]`` of module inputs in bases V [in, q]."""
    moments: dict[str, Tensor] = {}

    def add_input(path: str, x: Tensor) -> None:
        z = (x.flatten(0, -2).float() @ right[path].to(x.device)).double().cpu()
        moments[path] = moments[path] + z.mT @ z if path in moments else z.mT @ z

    return run_forward(measurement, update, examples, right, add_input), moments


def collect_moments(
    measurement: Measurement,
    update: Mapping[str, Factors] | None,
    examples: Sequence[TokenizedExample],
    modules: Iterable[str],
) -> dict[tuple[str, ...], Tensor]:
    """Return the second moments ``X Xᵀ [in, in]`` of module inputs; modules that share an input share an entry."""
    groups: list[tuple[list[str], Tensor]] = []
    group_of: dict[str, int] = {}
    last_input: Tensor | None = None

    def add_input(path: str, x: Tensor) -> None:
        nonlocal last_input
        if x is last_input:
            if path not in group_of:
                group_of[path] = len(groups) - 1
                groups[-1][0].append(path)
            return
        last_input = x
        rows = x.flatten(0, -2).float()
        if path in group_of:
            groups[group_of[path]][1].addmm_(rows.mT, rows)
        else:
            group_of[path] = len(groups)
            groups.append(([path], rows.mT @ rows))

    run_forward(measurement, update, examples, modules, add_input)
    return {tuple(paths): total.cpu() for paths, total in groups}
