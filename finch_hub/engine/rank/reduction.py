"""Reduction of the rank after training: the fewest directions that keep the held-out loss.

One threshold over the singular values of all modules (as in PARA, arXiv 2604.27796) decides which directions stay. The
held-out loss decides how high the threshold is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.rank.spectrum import Spectrum, choose_threshold
from finch_hub.engine.rank.starting_adapter import with_ranks
from finch_hub.formats.peft_names import tensor_name
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TokenMetrics


def cut_to_ranks(base: Base, adapter: AttachableAdapter, ranks: Mapping[str, int]) -> AttachableAdapter:
    """Replace the adapter on the base by one that is cut to a rank for each module.

    The factors contain the whole scale, and alpha equals the rank. So every reader of PEFT's format computes the same
    update.
    """
    factors = Spectrum.of(adapter.weights()).factors(ranks)
    sizes = {path: len(A) for path, (A, _) in factors.items()}
    usual = max(set(sizes.values()), key=list(sizes.values()).count)
    config = with_ranks(adapter.config, sizes, usual=usual, alpha=float(usual))
    adapter.detach()
    reduced = AttachableAdapter(config, base, name=adapter.name)
    parameters = reduced.parameters()
    with torch.no_grad():
        for path, (A, B) in factors.items():
            parameters[tensor_name(path, "A")].copy_(A)
            parameters[tensor_name(path, "B")].copy_(B)
    return reduced


def reduce_rank(
    base: Base, adapter: AttachableAdapter, config: LoRAConfig, held_out: Sequence[TokenizedExample], full_loss: float
) -> tuple[AttachableAdapter, TokenMetrics, dict[str, Any]]:
    """Cut a trained adapter to the fewest directions that keep its held-out loss, and detach the full one.

    `config` is the requested shape, with the tolerance and the budget. `full_loss` is the held-out loss before the cut.

    Returns:
        The reduced adapter on the base, its metrics, and a report as JSON: `rank_pattern`, `parameters`, `spectrum`
        (singular values by module), `choices` (parameters and held-out loss of every measured threshold).
    """
    tolerance, budget = config.rank_tolerance, config.rank_budget
    full = adapter.weights()
    spectrum = Spectrum.of(full)
    parameters = adapter.parameters()

    def loss_at(threshold: float) -> float:
        _load_cut(parameters, spectrum, full, spectrum.ranks(threshold))
        return evaluation.measure(base, held_out).loss

    threshold, choices = choose_threshold(spectrum, loss_at, full_loss=full_loss, tolerance=tolerance, budget=budget)
    adapter.load_weights(full)
    ranks = spectrum.ranks(threshold)
    reduced = cut_to_ranks(base, adapter, ranks)
    report = {
        "threshold": threshold,
        "rank_pattern": ranks,
        "parameters": spectrum.parameters(threshold),
        "trained_parameters": full.num_parameters,
        "uncut_loss": full_loss,
        "tolerance": tolerance,
        "budget": budget,
        "spectrum": {path: [round(float(value), 6) for value in S] for path, (_, S, _) in spectrum.modules.items()},
        "choices": [vars(choice) for choice in choices],
    }
    return reduced, evaluation.measure(base, held_out), report


def _load_cut(
    parameters: Mapping[str, Tensor], spectrum: Spectrum, full: AdapterWeights, ranks: Mapping[str, int]
) -> None:
    """Set the adapter's factors to the cut factors, padded with zeros to the adapter's rank."""
    factors = spectrum.factors(ranks)
    with torch.no_grad():
        for path, module in full.modules.items():
            A = parameters[tensor_name(path, "A")].zero_()
            B = parameters[tensor_name(path, "B")].zero_()
            if path in factors:
                cut_A, cut_B = factors[path]
                A[: len(cut_A)] = cut_A
                B[:, : len(cut_A)] = cut_B / module.scale
