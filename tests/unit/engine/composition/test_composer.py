"""The composer's cache of merged core spaces, and modules in which parents do not meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import updates

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import core_space
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement, tokenize_validation
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.parents import ParentAdapter, ParentInput
from finch_hub.engine.composition.trial import Trial
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.descriptors import NoParameters
from finch_hub.specs.examples import Example


def test_each_trial_and_weights_are_merged_once() -> None:
    calls: list[tuple[float, ...]] = []

    def merge(core: CoreSpace, weights: tuple[float, ...], parameters: Any, **_: Any) -> dict[str, torch.Tensor]:
        calls.append(weights)
        return core.merge(weights, lambda block, w: torch.einsum("t,tnpq->npq", w, block.cores))

    core = core_space.build([updates.adapter("a", seed=0), updates.adapter("b", seed=1)])
    composer = Composer(core=core, weights=(1.0, 1.0), rank=None, seed=0)
    trial = Trial(strategy="sum", merge=merge, parameters=NoParameters())
    first = composer.compose(trial, 1.0, (1.0, 1.0))
    half = composer.compose(trial, 0.5, (1.0, 1.0))
    other = composer.compose(trial, 1.0, (1.0, 0.5))
    assert calls == [(1.0, 1.0), (1.0, 0.5)]
    for module, update in first.items():
        assert updates.relative(updates.dense(half[module]), 0.5 * updates.dense(update)) < 1e-5
        assert updates.relative(updates.dense(other[module]), updates.dense(update)) > 0.01


CATALOG = load_catalog(entry_points=False)
Q, K, V = (f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
GIVEN = (1.5, 0.5, -2.0)
PARAMETERS: dict[str, dict[str, object]] = {"learned": {"steps": 1}, "refuse": {"threshold": 1}}


def make_trial(strategy: str, resolver: str) -> Trial:
    merging, resolving = CATALOG.strategies[strategy], CATALOG.resolvers[resolver]
    return Trial(
        strategy=strategy,
        merge=merging.load(),
        parameters=merging.parse(PARAMETERS.get(strategy, {})),
        resolver=resolver,
        resolve=resolving.load(),
        resolver_parameters=resolving.parse(PARAMETERS.get(resolver, {})),
        needs_data=merging.needs_data,
    )


@pytest.fixture
def parents(tiny_base: Base) -> list[ParentAdapter]:
    """Three parents that meet in q_proj only. One has v_proj alone. One has k_proj with an update that is zero."""
    shapes = {path: tuple(tiny_base.model.get_submodule(path).weight.shape) for path in (Q, K, V)}
    first = updates.adapter("a", seed=0, shapes=shapes, scale=0.1)
    second = updates.adapter("b", seed=1, shapes=shapes, modules=[Q], scale=0.1)
    third = updates.adapter("c", seed=2, shapes=shapes, modules=[Q, K], scale=0.1)
    unused = Factors(B=torch.zeros_like(third.factors[K].B), A=third.factors[K].A)
    return [first, second, ParentAdapter.of("c", {**third.factors, K: unused})]


@pytest.fixture
def composer(parents: list[ParentAdapter], tiny_base: Base) -> Iterator[Composer]:
    made = Composer(core=core_space.build(parents), weights=GIVEN, rank=None, seed=0)
    questions = [Example.of_pair(f"What does finch {n} eat?", "It eats seeds.") for n in range(3)]
    rows = tokenize_validation([ParentInput(name="a", folder=Path(), validation=questions)], tiny_base) * 3
    with Measurement(tiny_base, parents, rows) as measurement:
        base = measurement.measure(None)
        # As if every parent had gained a nat, so that all of them count.
        own = [m and m.evolve(loss=m.loss - 1, example_losses=tuple(x - 1 for x in m.example_losses)) for m in base]
        made.parent_data = ParentData(measurement, base=base, own=own)
        yield made


@pytest.mark.parametrize("resolver", CATALOG.resolvers)
@pytest.mark.parametrize("strategy", CATALOG.strategies)
def test_module_of_one_parent_is_left_alone(
    strategy: str, resolver: str, composer: Composer, parents: list[ParentAdapter]
) -> None:
    trial = make_trial(strategy, resolver)
    whole, half = (composer.compose(trial, scale, (1.0, 2.0, 0.3)) for scale in (1.0, 0.5))
    for made in (whole, half):
        for module in (K, V):
            expected = GIVEN[0] * updates.dense(parents[0].factors[module])
            assert updates.relative(updates.dense(made[module]), expected) < 1e-5
    # Where they meet, the scale applies.
    assert updates.relative(updates.dense(half[Q]), 0.5 * updates.dense(whole[Q])) < 1e-5


def test_third_party_kernels_cannot_change_a_module_of_one_parent(
    composer: Composer, parents: list[ParentAdapter]
) -> None:
    def turn(core: CoreSpace, parameters: Any) -> CoreSpace:
        # A resolver of its own that changes the bases and the cores of all modules.
        blocks = [replace(b, outputs=replace(b.outputs, transform=-2 * b.outputs.transform)) for b in core.blocks]
        return replace(core, blocks=tuple(blocks))

    def halve(core: CoreSpace, weights: tuple[float, ...], parameters: Any, **_: Any) -> dict[str, torch.Tensor]:
        return {m: 0.5 * M for b in core.blocks for m, M in zip(b.modules, b.cores.sum(0), strict=True)}

    trial = Trial(strategy="halve", merge=halve, parameters=NoParameters(), resolver="turn", resolve=turn)
    made = composer.compose(trial, 0.3, (1.0, 1.0, 1.0))
    for module in (K, V):
        expected = GIVEN[0] * updates.dense(parents[0].factors[module])
        assert updates.relative(updates.dense(made[module]), expected) < 1e-5


def _sum(core: CoreSpace, weights: tuple[float, ...], parameters: Any, **_: Any) -> dict[str, torch.Tensor]:
    return core.merge(weights, lambda block, w: torch.einsum("t,tnpq->npq", w, block.cores))


def _two_parents() -> Composer:
    core = core_space.build([updates.adapter("a", seed=0), updates.adapter("b", seed=1)])
    return Composer(core=core, weights=(1.0, 1.0), rank=None, seed=0)


def test_kernels_that_change_their_input_spoil_no_other_trial() -> None:
    def spoil(core: CoreSpace, parameters: Any) -> CoreSpace:
        for block in core.blocks:
            block.cores.zero_()
        return core

    def spoil_and_merge(core: CoreSpace, weights: tuple[float, ...], parameters: Any, **_: Any) -> Any:
        merged = _sum(core, weights, parameters)
        spoil(core, parameters)
        return merged

    composer, fresh = _two_parents(), _two_parents()
    composer.compose(Trial(strategy="rude", merge=spoil_and_merge, parameters=NoParameters()), 1.0, (1.0, 1.0))
    rude = Trial(strategy="sum", merge=_sum, parameters=NoParameters(), resolver="rude", resolve=spoil)
    composer.compose(rude, 1.0, (1.0, 1.0))
    plain = Trial(strategy="sum", merge=_sum, parameters=NoParameters())
    expected = fresh.compose(plain, 1.0, (1.0, 1.0))
    for module, update in composer.compose(plain, 1.0, (1.0, 1.0)).items():
        torch.testing.assert_close(updates.dense(update), updates.dense(expected[module]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda merged: None, "NoneType, not updates by modules"),
        (lambda merged: list(merged), "list, not updates by modules"),
        (lambda merged: {}, "updates of other modules"),
        (
            lambda merged: {**merged, "more": torch.zeros(2, 2)},
            "updates of other modules than those of the parents: more",
        ),
        (lambda merged: {**merged, 7: None}, "updates of other modules"),
        (lambda merged: dict.fromkeys(merged, "text"), "no finite matrix of the core's shape"),
        (lambda merged: dict.fromkeys(merged, torch.zeros(1)), "no finite matrix of the core's shape"),
        (lambda merged: {m: M * float("nan") for m, M in merged.items()}, "no finite matrix of the core's shape"),
    ],
)
def test_nonsense_of_a_strategy_is_named(change: Any, said: str) -> None:
    def merge(core: CoreSpace, weights: tuple[float, ...], parameters: Any, **_: Any) -> Any:
        return change(_sum(core, weights, parameters))

    trial = Trial(strategy="odd", merge=merge, parameters=NoParameters())
    with pytest.raises(errors.PluginError, match=f"strategy odd returned .*{said}"):
        _two_parents().compose(trial, 1.0, (1.0, 1.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda core: None, "NoneType, not a core space"),
        (lambda core: replace(core, blocks=()), "a core space of other parents or modules"),
        (lambda core: replace(core, parents=("a", "b", "c")), "a core space of other parents or modules"),
        (lambda core: core.map(lambda block: block.cores * float("inf")), "cores that are not finite"),
    ],
)
def test_nonsense_of_a_resolver_is_named(change: Any, said: str) -> None:
    trial = Trial(
        strategy="sum",
        merge=_sum,
        parameters=NoParameters(),
        resolver="odd",
        resolve=lambda core, parameters: change(core),
    )
    with pytest.raises(errors.PluginError, match=f"resolver odd returned {said}"):
        _two_parents().compose(trial, 1.0, (1.0, 1.0))
