"""Running rows through a base under an update, and seeing what each module is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Bench
from finch_hub.engine.data import batches

if TYPE_CHECKING:
    from finch_hub.engine.data.tokenizing import TokenizedExample


@torch.no_grad()
def forward(
    bench: Bench,
    update: Mapping[str, Factors] | None,
    probes: Sequence[TokenizedExample],
    modules: Iterable[str] = (),
    see: Callable[[str, Tensor], None] = lambda module, x: None,
) -> Tensor:
    """Return the hidden states [L, d] that predict the completions; `see` is shown each module's inputs.

    It is called with a module's path and the tensor, [1, tokens, in], that it is given; modules that are given the
    same one are shown it in succession. Through the model's own forward, for hooks see what each module is given.
    """

    def hook_of(path: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        return lambda module, inputs, output: see(path, inputs[0])

    bench.set(update)
    handles = [bench.base.model.get_submodule(path).register_forward_hook(hook_of(path)) for path in modules]
    try:
        # One at a time, so that no module ever sees a padded token.
        states = [
            bench.padded.hidden(batches.pack([probe], share_prefix=False).to(bench.base.device)) for probe in probes
        ]
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(states).float().cpu()


def projected_moments(
    bench: Bench,
    update: Mapping[str, Factors] | None,
    probes: Sequence[TokenizedExample],
    right: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the hidden states, and second moments ``Vᵀ X Xᵀ V [q, q]`` of the modules' inputs in bases V [in, q]."""
    moments: dict[str, Tensor] = {}

    def see(path: str, x: Tensor) -> None:
        z = (x.flatten(0, -2).float() @ right[path].to(x.device)).double().cpu()
        moments[path] = moments[path] + z.mT @ z if path in moments else z.mT @ z

    return forward(bench, update, probes, right, see), moments


def moments(
    bench: Bench, update: Mapping[str, Factors] | None, probes: Sequence[TokenizedExample], modules: Iterable[str]
) -> dict[tuple[str, ...], Tensor]:
    """Return the second moments ``X Xᵀ [in, in]`` of inputs, by all the modules that are given the same ones."""
    found: list[tuple[list[str], Tensor]] = []
    at: dict[str, int] = {}
    last: Tensor | None = None

    def see(path: str, x: Tensor) -> None:
        nonlocal last
        if x is last:
            if path not in at:
                at[path] = len(found) - 1
                found[-1][0].append(path)
            return
        last = x
        rows = x.flatten(0, -2).float()
        if path in at:
            found[at[path]][1].addmm_(rows.mT, rows)
        else:
            at[path] = len(found)
            found.append(([path], rows.mT @ rows))

    forward(bench, update, probes, modules, see)
    return {tuple(paths): total.cpu() for paths, total in found}
