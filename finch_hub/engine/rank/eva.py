"""Which directions of a module's inputs carry most variance on a sample of the data (EVA, arXiv 2410.07170)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.eva import SVDHook, get_eva_state_dict
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.tokenizing import TokenizedExample

PASSES = 2
"""Over the sample; left to itself PEFT goes on for dozens, see decision 0043."""

_BATCHES = 4  # that the sample is divided into: small ones make the directions turn for long
_SETTLED = 0.99  # cosine of a direction and itself a batch earlier, EVA's tau


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """What EVA found.

    Attributes:
        rows: [rank, in] of each module, orthonormal, the most telling ones first; none where nothing is worth one.
        settled: inputs whose directions no longer turned in the last batch; modules may share an input.
        inputs: number of different ones.

    """

    rows: Mapping[str, Tensor]
    settled: int
    inputs: int

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each module; 0 where nothing is worth one."""
        return {path: len(rows) for path, rows in self.rows.items()}


def directions(
    base: Base, paths: Sequence[str], sample: Sequence[TokenizedExample], *, rank: int, redistribution: float = 1.0
) -> Directions:
    """Find the directions of the modules' inputs that explain most of their variance (EVA).

    PEFT passes over the data until no direction turns any more. On a sample the least ones go on turning for long, for
    they are those of its noise, so the passes are bounded, and the result says how many inputs had settled by then.

    Args:
        base: without adapters.
        paths: of the modules.
        sample: examples that are looked at, at their label tokens; these must be twice `rank` times `redistribution`.
        rank: on average over the modules.
        redistribution: how many times the average a module may get, by explained variance; 1 gives all the same.

    Raises:
        TrainingFailed: the inputs of a module are not finite.

    """
    tokens = max(2 * round(rank * redistribution), sum(int(one.labels.sum()) for one in sample) // _BATCHES)
    loader = _loader(sample, label_tokens=tokens, device=base.device)
    config = peft.LoraConfig(
        r=rank,
        target_modules=list(paths),
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=redistribution, tau=_SETTLED),
    )
    last = 1 + PASSES * len(loader)  # the first forward pass only finds modules with the same input
    number, inputs, turning = 0, 0, 0

    def forward(model: Any, batch: dict[str, Tensor]) -> None:
        nonlocal number, inputs, turning
        number += 1
        hooks = [one for part in model.modules() for one in part._forward_hooks.values() if isinstance(one, SVDHook)]
        inputs = max(inputs, len(hooks))
        if number == last + 1:
            turning = len(hooks)
        if number > last:
            for hook in hooks:
                hook.sim_thresh = -1.0  # whatever it has after this pass counts
        model.get_decoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)

    try:
        with torch.no_grad():
            rows = get_eva_state_dict(base.model, loader, config, forward_fn=forward, show_progress_bar=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch's stubs leave it out
        raise errors.TrainingFailed(f"the base computes values that are not finite on this data: {error}") from error
    return Directions(rows={path: rows[path].float().cpu() for path in paths}, settled=inputs - turning, inputs=inputs)


def _loader(
    examples: Sequence[TokenizedExample], *, label_tokens: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """Make padded batches of at least so many label tokens: PEFT waits forever for one that has fewer than it needs."""
    groups: list[list[TokenizedExample]] = [[]]
    for example in sorted(examples, key=len):  # rows of like length need less padding
        if sum(int(one.labels.sum()) for one in groups[-1]) >= label_tokens:
            groups.append([])
        groups[-1].append(example)
    if len(groups) > 1 and sum(int(one.labels.sum()) for one in groups[-1]) < label_tokens:
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
