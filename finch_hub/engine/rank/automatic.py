"""Automatic rank: a generous rank divided among the modules before training, and reduced after it.

Before training, EVA measures the modules' inputs on a sample of the data. A module whose inputs vary in more directions
gets a higher rank. After training, one threshold over the singular values of all modules (as in PARA, arXiv 2604.27796)
decides which directions stay. The held-out loss decides how high the threshold is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter, linear_modules
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.rank import eva
from finch_hub.engine.rank.spectrum import Spectrum, choose_threshold
from finch_hub.formats.peft_names import tensor_name
from finch_hub.specs.lora import LEAST_HELD_OUT, LoRAConfig, UnusualValueWarning
from finch_hub.specs.reports import TokenMetrics

GENEROUS_RANK = 64
"""Average rank during training: the highest usual rank, because more directions learn faster in short trainings."""

_REDISTRIBUTION = 2.0  # EVA's rho: highest rank of a module over the average
_SAMPLE = 64  # examples that EVA reads
_LEAST_RANK = 16  # of a module after EVA: before training, the directions that a module needs are uncertain


def attach_for_training(
    base: Base,
    config: LoRAConfig,
    examples: Sequence[TokenizedExample],
    *,
    seed: int,
    report_message: Callable[[str], None],
) -> AttachableAdapter:
    """Attach an adapter to the base, with the rank and initial A that training starts from.

    An automatic rank is generous, and EVA divides it among the modules. With ``init="eva"``, A starts from EVA's
    directions. `report_message` receives EVA's result, or the reason why EVA was skipped.

    Raises:
        InvalidSpec: the configuration names modules that the base does not have.

    """
    automatic = config.rank == "auto"
    if not automatic and config.init != "eva":
        return AttachableAdapter(config, base, seed=seed)
    modules = linear_modules(base.model)
    paths = target_modules.match(config, modules)
    if config.rank_budget is not None:
        direction = max(sum(modules[path]) for path in paths)  # of any module, because it may be the strongest
        if config.rank_budget < direction:
            what = f"{config.rank_budget:,} parameters are fewer than one direction of a module takes ({direction:,})"
            raise errors.InvalidSpec(errors.Problem(where="rank_budget", what=what, fix="raise it"))
    # EVA's directions replace the shared A after the adapter is attached.
    plain = config.evolve(init="shared") if config.init == "eva" else config
    generous = _with_generous_rank(plain) if automatic else plain
    rank = max(target_modules.ranks_of(generous, paths).values())
    redistribution = min(_REDISTRIBUTION if automatic else 1.0, min(modules[path][1] for path in paths) / (2 * rank))
    sample = examples[:_SAMPLE]
    tokens = sum(int(example.labels.sum()) for example in sample)
    # PEFT's decomposition computes twice as many directions as requested; the inputs must have that many.
    if redistribution < 1 or tokens < 2 * round(rank * redistribution):
        report_message("EVA was skipped: the base is too narrow or the sample of the data too small for this rank")
        return AttachableAdapter(generous, base, seed=seed)
    found = eva.find_directions(base, paths, sample, rank=rank, redistribution=redistribution)
    report_message(
        f"EVA: the directions of {found.settled} of {found.inputs} inputs settled in {eva.PASSES} passes over a sample"
    )
    if automatic:
        ranks = {path: max(size, _LEAST_RANK) for path, size in found.ranks.items()}
        generous = _with_ranks(generous, ranks, usual=GENEROUS_RANK, alpha=generous.alpha)
    adapter = AttachableAdapter(generous, base, seed=seed)
    if config.init == "eva":
        parameters = adapter.parameters()
        with torch.no_grad():
            for path, rows in found.rows.items():
                A = parameters[tensor_name(path, "A")]
                first = rows[: len(A)]  # those with the most variance
                A[: len(first)].copy_(first)
    return adapter


def _with_generous_rank(config: LoRAConfig) -> LoRAConfig:
    """Return the configuration with a generous rank, at the scale that its alpha gives at the usual rank."""
    usual = target_modules.default_rank(config)
    scale = config.alpha / (usual**0.5 if config.use_rslora else usual)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)
        return config.evolve(rank=GENEROUS_RANK, alpha=scale * GENEROUS_RANK, use_rslora=False, rank_budget=None)


def _with_ranks(config: LoRAConfig, ranks: Mapping[str, int], *, usual: int, alpha: float) -> LoRAConfig:
    """Return the configuration with a rank for each module, at the scale of `alpha` at the usual rank."""
    pattern = {path: rank for path, rank in ranks.items() if rank != usual}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)  # the user did not choose these values
        return config.evolve(
            rank=usual,
            alpha=alpha,
            target_modules=tuple(ranks),
            exclude_modules=(),
            layers_to_transform=None,
            rank_pattern=pattern,
            alpha_pattern={path: alpha * rank / usual for path, rank in pattern.items()},
        )


def check_data(train_set: Sequence[TokenizedExample], held_out: Sequence[TokenizedExample]) -> None:
    """Refuse to choose a rank from too few tokens to learn, or too few validation examples."""
    problems = []
    needed = 2 * GENEROUS_RANK
    labels = sum(int(example.labels.sum()) for example in train_set)
    if labels < needed:
        what = f"the training data has {labels:,} tokens to learn, but choosing a rank needs {needed:,}"
        problems.append(errors.Problem(what=what, fix='give a number for "rank"'))
    if len(held_out) < LEAST_HELD_OUT:
        what = f"there are {len(held_out)} validation examples, but choosing a rank needs {LEAST_HELD_OUT}"
        problems.append(errors.Problem(what=what, fix='give more validation data, or a number for "rank"'))
    if problems:
        raise errors.InvalidDataset(problems, subject='rank="auto"')


def cut_to_ranks(base: Base, adapter: AttachableAdapter, ranks: Mapping[str, int]) -> AttachableAdapter:
    """Replace the adapter on the base by one that is cut to a rank for each module.

    The factors contain the whole scale, and alpha equals the rank. So every reader of PEFT's format computes the same
    update.
    """
    factors = Spectrum.of(adapter.weights()).factors(ranks)
    sizes = {path: len(A) for path, (A, _) in factors.items()}
    usual = max(set(sizes.values()), key=list(sizes.values()).count)
    config = _with_ranks(adapter.config, sizes, usual=usual, alpha=float(usual))
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
