"""The automatic rank: a generous one divided among the modules before training, cut to what is needed after it.

Before, EVA looks at the modules' inputs on a sample of the data: where more directions carry variance, more are
trained. After, one threshold over the singular values of all modules (as PARA, arXiv 2604.27796) says which directions
stay. How high it may be is measured: held-out loss is the judge.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter, attach
from finch_hub.engine.adapters.module_shapes import linear_modules
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.rank import eva
from finch_hub.engine.rank.spectrum import Spectrum, choose
from finch_hub.formats.adapter_folder import PREFIX
from finch_hub.specs.lora import LEAST_HELD_OUT, LoRAConfig, UnusualValueWarning
from finch_hub.specs.reports import TokenMetrics

GENEROUS_RANK = 64
"""Average rank that is trained before anything is cut: the highest that is usual, since short trainings get further
with more directions, and what they don't need is cut afterwards."""

_REDISTRIBUTION = 2.0  # EVA's rho: a module may get so many times the average
_SAMPLE = 64  # examples that EVA looks at
_LEAST_RANK = 16  # that EVA leaves a module: what training would have made of it, nobody knows before


def begin(
    base: Base, config: LoRAConfig, examples: Sequence[TokenizedExample], *, seed: int, say: Callable[[str], None]
) -> AttachableAdapter:
    """Put an adapter on the base as it is to be trained.

    Where the rank is automatic it is generous, and divided among the modules by what EVA finds in their inputs. With
    ``init="eva"`` A begins from EVA's directions as well; otherwise it begins as it always does.

    Args:
        base: to be adapted.
        config: as asked for.
        examples: of training.
        seed: of the initial A where that is random.
        say: told what EVA found, or why it cannot be had.

    Raises:
        InvalidSpec: the configuration names modules that the base does not have.

    """
    automatic = config.rank == "auto"
    if not automatic and config.init != "eva":
        return attach(base, config, seed=seed)
    modules = linear_modules(base.model)
    paths = target_modules.match(config, modules)
    if config.rank_budget is not None:
        _check_budget(config.rank_budget, direction=max(sum(modules[path]) for path in paths))
    # EVA's directions are put into an adapter that began as any other does.
    plain = config.evolve(init="shared") if config.init == "eva" else config
    generous = _generous(plain) if automatic else plain
    rank = max(target_modules.rank_of(generous, path) for path in paths)
    redistribution = min(_REDISTRIBUTION if automatic else 1.0, min(modules[path][1] for path in paths) / (2 * rank))
    sample = examples[:_SAMPLE]
    tokens = sum(int(example.labels.sum()) for example in sample)
    # PEFT's decomposition works with twice as many directions as are wanted; the inputs must have as many.
    if redistribution < 1 or tokens < 2 * round(rank * redistribution):
        say("EVA was left out: the base is too narrow, or its sample of the data too small, for this rank")
        return attach(base, generous, seed=seed)
    found = eva.directions(base, paths, sample, rank=rank, redistribution=redistribution)
    say(f"EVA: the directions of {found.settled} of {found.inputs} inputs settled in {eva.PASSES} passes over a sample")
    adapter = attach(base, _divided(generous, found.ranks) if automatic else generous, seed=seed)
    if config.init == "eva":
        parameters = adapter.parameters()
        with torch.no_grad():
            for path, rows in found.rows.items():
                A = parameters[f"{PREFIX}{path}.lora_A.weight"]
                some = rows[: len(A)]  # the most telling ones come first
                A[: len(some)].copy_(some)
    return adapter


def _generous(config: LoRAConfig) -> LoRAConfig:
    """Return the configuration with a generous rank, at the scale that its alpha gives the usual one."""
    usual = target_modules.rank_of(config, "")
    scale = config.alpha / (usual**0.5 if config.use_rslora else usual)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)
        return config.evolve(rank=GENEROUS_RANK, alpha=scale * GENEROUS_RANK, use_rslora=False, rank_budget=None)


def _divided(generous: LoRAConfig, found: Mapping[str, int]) -> LoRAConfig:
    """Return the configuration with a rank for each module, at the same scale for all."""
    average = target_modules.rank_of(generous, "")
    ranks = {path: max(size, _LEAST_RANK) for path, size in found.items()}
    pattern = {path: size for path, size in ranks.items() if size != average}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)  # found by measuring, not by guessing
        return generous.evolve(
            target_modules=tuple(ranks),
            exclude_modules=(),
            layers_to_transform=None,
            rank_pattern=pattern,
            alpha_pattern={path: generous.alpha * size / average for path, size in pattern.items()},
        )


def _check_budget(budget: int, *, direction: int) -> None:
    """Refuse a budget into which one direction does not fit, in whichever module the strongest will be."""
    if budget < direction:
        what = f"{budget:,} parameters are fewer than one direction of a module takes ({direction:,})"
        raise errors.InvalidSpec(errors.Problem(where="rank_budget", what=what, fix="raise it"))


def check_data(train_set: Sequence[TokenizedExample], held_out: Sequence[TokenizedExample]) -> None:
    """Refuse to choose a rank from too little data.

    Raises:
        InvalidDataset: says what is missing.

    """
    problems = []
    needed = 2 * GENEROUS_RANK
    labels = sum(int(example.labels.sum()) for example in train_set)
    if labels < needed:
        what = f"the training data has {labels:,} tokens to learn; choosing a rank takes {needed:,}"
        problems.append(errors.Problem(what=what, fix='give a number for "rank"'))
    if len(held_out) < LEAST_HELD_OUT:
        what = f"there are {len(held_out)} validation examples; choosing a rank takes {LEAST_HELD_OUT}"
        problems.append(errors.Problem(what=what, fix='give more validation data, or a number for "rank"'))
    if problems:
        raise errors.InvalidDataset(problems, subject='rank="auto"')


def cut(base: Base, adapter: AttachableAdapter, ranks: Mapping[str, int]) -> AttachableAdapter:
    """Put the adapter, cut to a rank for each module, on the base in its stead.

    The factors carry the whole scale: alpha equals the rank everywhere, so that every reader of PEFT's format gives
    the same update.
    """
    factors = Spectrum.of(adapter.weights()).factors(ranks)
    name = adapter.name
    usual = max({A.shape[0] for A, _ in factors.values()}, key=[A.shape[0] for A, _ in factors.values()].count)
    pattern = {path: A.shape[0] for path, (A, _) in factors.items() if A.shape[0] != usual}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)  # found by measuring, not by guessing
        config = adapter.config.evolve(
            rank=usual,
            alpha=float(usual),
            target_modules=tuple(factors),
            exclude_modules=(),
            layers_to_transform=None,
            rank_pattern=pattern,
            alpha_pattern={path: float(rank) for path, rank in pattern.items()},
        )
    adapter.detach()
    smaller = attach(base, config, name=name)
    parameters = smaller.parameters()
    with torch.no_grad():
        for path, (A, B) in factors.items():
            parameters[f"{PREFIX}{path}.lora_A.weight"].copy_(A)
            parameters[f"{PREFIX}{path}.lora_B.weight"].copy_(B)
    return smaller


def shrink(
    base: Base,
    adapter: AttachableAdapter,
    measure: Callable[[], TokenMetrics],
    *,
    uncut_loss: float,
    tolerance: float,
    budget: int | None,
) -> tuple[AttachableAdapter, TokenMetrics, dict[str, Any]]:
    """Cut a trained adapter to as few directions as keep its held-out loss, and report what each choice would cost.

    Args:
        base: with the adapter on it.
        adapter: plain LoRA, trained at a generous rank; it leaves the base.
        measure: the held-out metrics of the base with whatever is enabled on it.
        uncut_loss: what it gives for the adapter as it is.
        tolerance: relative held-out loss that may be lost.
        budget: upper bound of parameters, None for none.

    Returns:
        The smaller adapter on the base, its metrics, and a report: `rank_pattern`, `parameters`, `spectrum` (singular
        values by module), `choices` (parameters and held-out loss of every threshold measured).

    """
    full = adapter.weights()
    spectrum = Spectrum.of(full)
    parameters = adapter.parameters()

    def loss_at(threshold: float) -> float:
        _mask(parameters, spectrum, full, spectrum.ranks(threshold))
        return measure().loss

    threshold, choices = choose(spectrum, loss_at, full_loss=uncut_loss, tolerance=tolerance, budget=budget)
    adapter.load_weights(full)
    ranks = spectrum.ranks(threshold)
    smaller = cut(base, adapter, ranks)
    report = {
        "threshold": threshold,
        "rank_pattern": ranks,
        "parameters": spectrum.parameters(threshold),
        "trained_parameters": full.num_parameters,
        "uncut_loss": uncut_loss,
        "tolerance": tolerance,
        "budget": budget,
        "spectrum": {path: [round(float(value), 6) for value in S] for path, (_, S, _) in spectrum.modules.items()},
        "choices": [{"threshold": one.threshold, "parameters": one.parameters, "loss": one.loss} for one in choices],
    }
    return smaller, measure(), report


def _mask(parameters: Mapping[str, Tensor], spectrum: Spectrum, full: AdapterWeights, ranks: Mapping[str, int]) -> None:
    """Set the adapter's factors to the cut ones, padded with zeros to the rank they have."""
    factors = spectrum.factors(ranks)
    with torch.no_grad():
        for path, module in full.modules.items():
            A = parameters[f"{PREFIX}{path}.lora_A.weight"].zero_()
            B = parameters[f"{PREFIX}{path}.lora_B.weight"].zero_()
            if path in factors:
                some_A, some_B = factors[path]
                A[: len(some_A)] = some_A
                B[:, : len(some_A)] = some_B / module.scale
