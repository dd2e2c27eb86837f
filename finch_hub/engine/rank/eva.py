"""Directions of most variance in the modules' inputs, on a sample of the data (EVA, arXiv 2410.07170)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.eva import SVDHook, get_eva_state_dict
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.progress import Meter

PASSES = 2
"""Passes over the sample; without a bound PEFT makes dozens, see decision 0043."""

_BATCHES = 4  # of the sample: with smaller batches the directions settle later
_SETTLED = 0.99  # cosine of a direction and the same direction one batch earlier, EVA's tau


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Directions of the modules' inputs.

    Attributes:
        rows: [rank, in] of each module, orthonormal, in descending order of variance; empty for a module of rank 0.
        settled: inputs whose directions did not change in the last batch.
        inputs: number of different inputs; modules may share one.
    """

    rows: Mapping[str, Tensor]
    settled: int
    inputs: int


def find_directions(
    base: Base, paths: Sequence[str], sample: Sequence[TokenizedExample], *, rank: int, redistribution: float = 1.0
) -> Directions:
    """Find the directions of the modules' inputs that explain most of their variance (EVA).

    PEFT passes over the data until no direction changes. On a sample the weakest directions are noise and change for
    long. So the passes are bounded, and the result contains the number of inputs that settled.

    Args:
        base: base without adapters.
        paths: paths of the modules.
        sample: examples with at least 2 x `rank` x `redistribution` label tokens.
        rank: average rank of the modules.
        redistribution: highest rank of a module over the average; 1 gives equal ranks.

    Raises:
        TrainingFailed: the inputs of a module are not finite.
    """
    tokens = max(2 * round(rank * redistribution), sum(int(example.labels.sum()) for example in sample) // _BATCHES)
    loader = _loader(sample, label_tokens=tokens, device=base.device)
    config = peft.LoraConfig(
        r=rank,
        target_modules=list(paths),
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=redistribution, tau=_SETTLED),
    )
    last = 1 + PASSES * len(loader)  # the first forward pass only finds modules with the same input
    number, inputs, unsettled = 0, 0, 0
    meter = Meter("finding directions")

    def forward(model: Any, batch: dict[str, Tensor]) -> None:
        nonlocal number, inputs, unsettled
        number += 1
        hooks = [
            hook for module in model.modules() for hook in module._forward_hooks.values() if isinstance(hook, SVDHook)
        ]
        inputs = max(inputs, len(hooks))
        if number == last + 1:
            unsettled = len(hooks)
        if number > last:
            for hook in hooks:
                hook.sim_thresh = -1.0  # accept its directions after this pass
        model.get_decoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        meter.add()

    try:
        with torch.no_grad():
            rows = get_eva_state_dict(base.model, loader, config, forward_fn=forward, show_progress_bar=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch's stubs leave it out
        raise errors.TrainingFailed(f"the base computed values that are not finite: {error}") from error
    return Directions(
        rows={path: rows[path].float().cpu() for path in paths}, settled=inputs - unsettled, inputs=inputs
    )


def _loader(
    examples: Sequence[TokenizedExample], *, label_tokens: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """Make padded batches of at least `label_tokens`: PEFT never ends if a batch has fewer than it needs."""
    groups: list[list[TokenizedExample]] = [[]]
    for example in sorted(examples, key=len):  # rows of similar length need less padding
        if sum(int(example.labels.sum()) for example in groups[-1]) >= label_tokens:
            groups.append([])
        groups[-1].append(example)
    if len(groups) > 1 and sum(int(example.labels.sum()) for example in groups[-1]) < label_tokens:
        groups[-2] += groups.pop()
    return [_padded(group, device) for group in groups]


def _padded(examples: Sequence[TokenizedExample], device: torch.device) -> dict[str, Tensor]:
    longest = max(len(example) for example in examples)
    ids = torch.zeros((len(examples), longest), dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        tokens = torch.from_numpy(example.input_ids)
        ids[row, : len(example)] = tokens
        mask[row, : len(example)] = 1
        labels[row, : len(example)] = tokens.where(torch.from_numpy(example.labels), torch.tensor(-100))
    return {name: x.to(device) for name, x in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}
