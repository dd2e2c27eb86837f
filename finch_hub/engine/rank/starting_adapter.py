"""The adapter that a training starts from: its rank, given or generous, and its initial A.

With an automatic rank, EVA measures the modules' inputs on a sample of the data before training. A module whose inputs
vary in more directions gets a higher rank. :mod:`finch_hub.engine.rank.reduction` cuts the rank after the training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.base import Base
from finch_hub.engine.bases.layout_builder import describe_model
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.rank import eva
from finch_hub.formats.peft_names import tensor_name
from finch_hub.specs.lora import LEAST_HELD_OUT, LoRAConfig, UnusualValueWarning

GENEROUS_RANK = 64
"""Average rank during training: the highest usual rank, because more directions learn faster in short trainings."""

_REDISTRIBUTION = 2.0  # EVA's rho: highest rank of a module over the average
_SAMPLE = 64  # examples that EVA reads
_LEAST_RANK = 16  # of a module after EVA: before training, the directions that a module needs are uncertain


def attach(
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
    layout = describe_model(base.model, name=base.name)
    paths, modules = target_modules.match(config, layout), layout.linear
    if config.rank_budget is not None:
        direction = max(sum(modules[path]) for path in paths)  # of any module, because it may be the strongest
        if config.rank_budget < direction:
            what = f"{config.rank_budget:,} parameters are fewer than one direction of a module takes ({direction:,})"
            raise errors.InvalidSpec(what, where="rank_budget", fix="raise it")
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
        ranks = {path: max(len(rows), _LEAST_RANK) for path, rows in found.rows.items()}
        generous = with_ranks(generous, ranks, usual=GENEROUS_RANK, alpha=generous.alpha)
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


def with_ranks(config: LoRAConfig, ranks: Mapping[str, int], *, usual: int, alpha: float) -> LoRAConfig:
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
        what = f"choosing a rank needs {LEAST_HELD_OUT} validation examples, found {len(held_out)}"
        problems.append(errors.Problem(what=what, fix='give more validation data, or a number for "rank"'))
    if problems:
        raise errors.InvalidDataset(problems, subject='rank="auto"')
