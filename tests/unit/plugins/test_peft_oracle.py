"""Strategies compared with PEFT's `add_weighted_adapter` and its merging functions, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import merge_utils
from support.updates import Dense, dense, relative
from torch import Tensor, nn

from finch_hub.engine.composition import core_space, truncation
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.plugins.descriptors import NoParameters
from finch_hub.plugins.strategies import cat, dare, linear, ties
from finch_hub.plugins.strategies import parameters as p

RANKS = {"a": 2, "b": 3, "c": 4}
EQUAL = (1.0, 1.0, 1.0)


class TwoLayers(nn.Module):
    """Two linear modules, of which the second is wider than high."""

    def __init__(self) -> None:
        super().__init__()
        self.tall = nn.Linear(10, 12, bias=False)
        self.wide = nn.Linear(12, 6, bias=False)


def adapted(ranks: Mapping[str, int] = RANKS, *, targets: Sequence[str] = ("tall", "wide")) -> LoraModel:
    """Return PEFT's model with random adapters of these ranks, each with another scale."""
    torch.manual_seed(0)
    configs = {
        name: peft.LoraConfig(r=rank, lora_alpha=2 * rank + number, target_modules=list(targets))
        for number, (name, rank) in enumerate(ranks.items())
    }
    first, *others = configs
    lora = LoraModel(TwoLayers(), configs[first], first)
    for name in others:
        lora.peft_config[name] = configs[name]
        lora.inject_adapter(lora.model, name)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    return lora.double()


def layers_of(lora: LoraModel) -> dict[str, LoraLayer]:
    return {path: module for path, module in lora.model.named_modules() if isinstance(module, LoraLayer)}


def parents_of(lora: LoraModel) -> list[ParentAdapter]:
    parents = []
    for name in list(lora.peft_config):
        factors = {
            path: Factors(
                B=layer.lora_B[name].weight.detach() * layer.scaling[name], A=layer.lora_A[name].weight.detach()
            )
            for path, layer in layers_of(lora).items()
        }
        parents.append(ParentAdapter.of(name, factors))
    return parents


def combine_with_peft(lora: LoraModel, weights: Sequence[float], kind: str, **options: float) -> dict[str, Dense]:
    names = list(lora.peft_config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a density of 1 prunes nothing
        lora.add_weighted_adapter(names, list(weights), "all", combination_type=kind, **options)
    return {path: layer.get_delta_weight("all").detach().double().numpy() for path, layer in layers_of(lora).items()}


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_linear_cut_to_a_rank_equals_pefts_svd(rank: int) -> None:
    lora, weights = adapted(), (0.7, 1.5, 0.4)
    core = core_space.build(parents_of(lora))
    made = truncation.truncate(core, linear.merge(core, weights, p.LinearParameters(), seed=0), rank)
    for path, expected in combine_with_peft(lora, weights, "svd", svd_rank=rank, svd_full_matrices=False).items():
        assert made[path].rank == rank
        assert relative(dense(made[path]), expected) < 1e-5


def test_cat_equals_pefts_cat() -> None:
    lora, weights = adapted(), (0.7, 1.5, 0.4)
    core = core_space.build(parents_of(lora))
    made = truncation.truncate(core, cat.merge(core, weights, NoParameters(), seed=0))
    for path, expected in combine_with_peft(lora, weights, "cat").items():
        assert relative(dense(made[path]), expected) < 1e-5


def cores_of(core: CoreSpace) -> dict[str, list[Tensor]]:
    return {path: list(space.cores) for path, space in core.modules.items()}


@pytest.mark.parametrize("weights", [EQUAL, (3.0, 1.0, 0.2), (1.0, -2.0, 0.5)])
@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_ties_equals_pefts_ties_on_the_cores(density: float, weights: tuple[float, ...]) -> None:
    core = core_space.build(parents_of(adapted({"a": 2, "b": 2, "c": 4})))
    made = ties.merge(core, weights, p.TiesParameters(density=density), seed=0)
    for path, cores in cores_of(core).items():
        assert (density * cores[0].numel()).is_integer()  # PEFT rounds the number of entries down
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = merge_utils.ties(cores, torch.tensor(weights, dtype=torch.float64), density)
        assert torch.allclose(made[path], expected, atol=1e-9)


def test_ties_equals_pefts_ties_svd_where_core_and_weight_have_the_same_entries() -> None:
    # Each factor has one entry in a column, so the singular vectors are coordinates and the cores are permuted weights.
    lora, weights = adapted(), (0.7, 1.5, 0.4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in layers_of(lora).values():
            for name, rank in RANKS.items():
                A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
                for matrix, rows in ((A.T, A.shape[1]), (B, B.shape[0])):
                    matrix.zero_()
                    places = torch.randperm(min(rows, 5), generator=generator)[:rank]
                    matrix[places, range(rank)] = torch.randn(rank, generator=generator, dtype=torch.float64)
    core = core_space.build(parents_of(lora))
    made = truncation.truncate(core, ties.merge(core, weights, p.TiesParameters(density=1.0), seed=0))
    found = combine_with_peft(lora, weights, "ties_svd", density=1.0, svd_rank=6, svd_full_matrices=False)
    for path, expected in found.items():
        assert relative(dense(made[path]), expected) < 1e-5


def test_entries_that_dare_keeps_equal_those_of_peft() -> None:
    core = core_space.build(parents_of(adapted({"a": 2, "b": 3})))
    made = dare.merge(core, (1.0, 0.0), p.DareParameters(drop=0.75), seed=0)
    torch.manual_seed(0)
    for path, (first, _) in cores_of(core).items():
        expected = merge_utils.dare_linear([first], torch.ones(1, dtype=torch.float64), 0.25)
        is_kept = (made[path] != 0) & (expected != 0)
        assert is_kept.any()
        assert torch.allclose(made[path][is_kept], expected[is_kept])
