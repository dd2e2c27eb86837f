"""Every strategy after every resolver, compared with dense matrices in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from support import dense_composition
from support.dense_composition import DenseParents
from support.updates import SHAPES, Dense, adapter, dense, expand, relative

from finch_hub.engine.composition import core_space
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.engine.composition.trial import MergedUpdate
from finch_hub.plugins.descriptors import NoParameters
from finch_hub.plugins.resolvers import calibrate, drop, keep, orthogonalize, priority
from finch_hub.plugins.resolvers import parameters as r
from finch_hub.plugins.strategies import cat, dare, linear, ties, tsv
from finch_hub.plugins.strategies import parameters as p
from finch_hub.specs.value import Value

SEED = 3

# Kernel, its parameters, and the dense function [parents -> their resolved updates].
RESOLVERS: dict[str, tuple[ModuleType, Value, Callable[[DenseParents], list[Dense]]]] = {
    "keep": (keep, NoParameters(), lambda parents: parents.own),
    "calibrate": (calibrate, r.ResolverParameters(), dense_composition.calibrate),
    "drop": (drop, r.DropParameters(), partial(dense_composition.drop, losers=True)),
    "drop all": (drop, r.DropParameters(losers=False), partial(dense_composition.drop, losers=False)),
}
for sides in ("left", "right", "both"):
    RESOLVERS[f"priority {sides}"] = (
        priority,
        r.PriorityParameters.of({"sides": sides}),
        partial(dense_composition.priority, sides=sides),
    )
    RESOLVERS[f"orthogonalize {sides}"] = (
        orthogonalize,
        r.OrthogonalizeParameters.of({"sides": sides}),
        partial(dense_composition.orthogonalize, sides=sides),
    )

# Kernel, its parameters, and the dense function [parents, weights, masks of DARE -> update].
STRATEGIES: dict[str, tuple[ModuleType, Value, Callable[[DenseParents, Sequence[float], Dense], Dense]]] = {
    "linear": (linear, p.LinearParameters(), lambda x, w, _: dense_composition.total(x, w)),
    "linear, parents' norm": (
        linear,
        p.LinearParameters(norm="parents"),
        lambda x, w, _: dense_composition.total_with_the_parents_norm(x, w),
    ),
    "cat": (cat, NoParameters(), lambda x, w, _: dense_composition.total(x, w)),
    "ties": (ties, p.TiesParameters(density=1.0), lambda x, w, _: dense_composition.ties(x, w, density=1.0)),
    "ties 0.3": (ties, p.TiesParameters(density=0.3), lambda x, w, _: dense_composition.ties(x, w, density=0.3)),
    "dare": (dare, p.DareParameters(drop=0.5), dense_composition.dare),
    "dare then ties": (
        dare,
        p.DareParameters(drop=0.5, elect=True, density=0.4),
        lambda x, w, masks: dense_composition.ties(x, w, density=0.4, masks=masks),
    ),
    "tsv": (tsv, p.TsvParameters(), lambda x, w, _: dense_composition.tsv(x, w, keep=None, sides="both")),
    "tsv left, 2 triplets": (
        tsv,
        p.TsvParameters(sides="left", keep=2),
        lambda x, w, _: dense_composition.tsv(x, w, keep=2, sides="left"),
    ),
}


def merge(kernel: ModuleType, core: CoreSpace, weights: tuple[float, ...], parameters: Value) -> dict[str, Dense]:
    merged: Mapping[str, MergedUpdate] = kernel.merge(core, weights, parameters, seed=SEED)
    return {m: dense(u) if isinstance(u, Factors) else expand(core, m, u) for m, u in merged.items()}


def draw_masks(core: CoreSpace, module: str) -> Dense:
    """Return what DARE multiplies the parents' cores with: 0, or 1 over the probability of keeping."""
    rows, columns = core.modules[module].cores[0].shape
    keys = [f"{SEED}:{digest}:{module}" for digest in core.digests]
    return np.stack([dare.draw_mask(rows, columns, 0.5, key).double().numpy() / 0.5 for key in keys])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 1.3, 0.4)], ids=["2 parents", "3 parents"])
def test_strategy_after_resolver_equals_the_dense_composition(
    strategy: str, resolver: str, weights: tuple[float, ...]
) -> None:
    parents = [adapter(f"p{t}", seed=t, scale=1.0 + t) for t in range(len(weights))]
    core = core_space.build(parents)
    resolving, resolver_parameters, resolve_dense = RESOLVERS[resolver]
    merging, parameters, merge_dense = STRATEGIES[strategy]
    made = merge(merging, resolving.resolve(core, resolver_parameters), weights, parameters)
    for module in SHAPES:
        own = [dense(parent.factors[module]) for parent in parents]
        known = DenseParents(own=own, resolved=own, rank=3)
        known = replace(known, resolved=resolve_dense(known))
        expected = merge_dense(known, weights, draw_masks(core, module))
        size = max(float(np.linalg.norm(update)) for update in own)
        assert np.linalg.norm(made[module] - expected) < 1e-4 * size


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_norm_of_the_parents_is_that_before_the_resolver(resolver: str) -> None:
    parents = [adapter(f"p{t}", seed=t, scale=1.0 + t) for t in range(3)]
    resolving, resolver_parameters, _ = RESOLVERS[resolver]
    resolved = resolving.resolve(core_space.build(parents), resolver_parameters)
    made = merge(linear, resolved, (1.0, 0.5, 2.0), p.LinearParameters(norm="parents"))
    for module in SHAPES:
        norms = [np.linalg.norm(dense(x.factors[module])) for x in parents]
        assert np.linalg.norm(made[module]) == pytest.approx(np.dot([1.0, 0.5, 2.0], norms) / 3, rel=1e-5)


def orthogonal_parents(count: int) -> list[ParentAdapter]:
    """Return parents of rank 2 whose outputs, and inputs, are orthogonal to each other up to float32's rounding."""
    generator = torch.Generator().manual_seed(0)
    made: list[dict[str, Factors]] = [{} for _ in range(count)]
    for module in ("m.0", "m.1"):
        B = torch.linalg.qr(torch.randn(20, 2 * count, generator=generator, dtype=torch.float64)).Q
        A = torch.linalg.qr(torch.randn(16, 2 * count, generator=generator, dtype=torch.float64)).Q.T
        B = B * torch.linspace(1, 3, 2 * count, dtype=torch.float64)
        for t, factors in enumerate(made):
            part = slice(2 * t, 2 * t + 2)
            factors[module] = Factors(B=B[:, part].float(), A=A[part].float())
    return [ParentAdapter.of(f"p{t}", factors) for t, factors in enumerate(made)]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("linear, parents' norm", "dare")])
@pytest.mark.parametrize("resolver", [name for name in RESOLVERS if name != "calibrate"])
def test_orthogonal_parents_are_added(strategy: str, resolver: str) -> None:
    # Calibration and the parents' norm change them by definition. Trimming and dropping are off here.
    neutral = {
        "ties 0.3": p.TiesParameters(density=1.0),
        "dare then ties": p.DareParameters(drop=0, elect=True),
        "tsv left, 2 triplets": p.TsvParameters(sides="left"),
    }
    parents = orthogonal_parents(3)
    resolving, resolver_parameters, _ = RESOLVERS[resolver]
    merging, parameters, _ = STRATEGIES[strategy]
    resolved = resolving.resolve(core_space.build(parents), resolver_parameters)
    made = merge(merging, resolved, (1.0, 1.0, 1.0), neutral.get(strategy, parameters))
    for module in ("m.0", "m.1"):
        assert relative(made[module], np.sum([dense(x.factors[module]) for x in parents], axis=0)) < 1e-4
