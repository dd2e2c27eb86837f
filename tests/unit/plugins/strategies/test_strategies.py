"""Algebra that holds for every strategy, and each strategy compared with a dense implementation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import fuzzing
from support.updates import SHAPES, adapter, dense, dense_sum, expand, relative

from finch_hub import errors
from finch_hub.engine.composition import core_space, truncation
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.engine.composition.trial import MergedUpdate
from finch_hub.plugins.descriptors import NoParameters
from finch_hub.plugins.strategies import cat, dare, linear, ties, tsv
from finch_hub.plugins.strategies import parameters as p
from finch_hub.specs.value import Value

EXACT = 1e-5

# Every strategy with parameters that trim nothing and drop nothing.
NEUTRAL: dict[str, tuple[ModuleType, Value]] = {
    "linear": (linear, p.LinearParameters()),
    "linear, parents' norm": (linear, p.LinearParameters(norm="parents")),
    "cat": (cat, NoParameters()),
    "ties": (ties, p.TiesParameters(density=1)),
    "dare": (dare, p.DareParameters(drop=0)),
    "dare then ties": (dare, p.DareParameters(drop=0, elect=True)),
    "tsv": (tsv, p.TsvParameters()),
    "tsv left": (tsv, p.TsvParameters(sides="left")),
    "tsv right": (tsv, p.TsvParameters(sides="right")),
}
# The same with parameters that trim or drop entries.
TRIMMING: dict[str, tuple[ModuleType, Value]] = NEUTRAL | {
    "ties": (ties, p.TiesParameters(density=0.3)),
    "dare": (dare, p.DareParameters(drop=0.5)),
    "dare then ties": (dare, p.DareParameters(drop=0.5, elect=True, density=0.5)),
    "tsv": (tsv, p.TsvParameters(keep=2)),
}
neutral = pytest.mark.parametrize("name", NEUTRAL)
trimming = pytest.mark.parametrize("name", TRIMMING)


def merged(
    kind: tuple[ModuleType, Value], core: CoreSpace, weights: tuple[float, ...], seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Return the dense update of every module."""
    kernel, parameters = kind
    made: Mapping[str, MergedUpdate] = kernel.merge(core, weights, parameters, seed=seed)
    return {m: dense(u) if isinstance(u, Factors) else expand(core, m, u) for m, u in made.items()}


def parents(count: int = 3, **options: object) -> list[ParentAdapter]:
    return [adapter(f"p{t}", seed=t, **options) for t in range(count)]  # type: ignore[arg-type]


@neutral
@settings(deadline=None, max_examples=fuzzing.examples(5))
@given(rank=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_one_parent_at_weight_1_is_unchanged(name: str, rank: int, seed: int) -> None:
    parent = adapter("a", seed=seed, rank=rank)
    made = merged(NEUTRAL[name], core_space.build([parent]), (1.0,))
    for module, update in parent.factors.items():
        assert relative(made[module], dense(update)) < EXACT


@trimming
def test_one_parent_is_never_trimmed_or_flattened(name: str) -> None:
    parent = adapter("a", seed=1)
    made = merged(TRIMMING[name], core_space.build([parent]), (1.0,))
    for module, update in parent.factors.items():
        assert relative(made[module], dense(update)) < EXACT


@trimming
def test_module_of_one_parent_is_scaled_by_its_weight(name: str) -> None:
    both = [adapter("a", seed=0, modules=["layers.0.q", "layers.1.q"]), adapter("b", seed=1)]
    made = merged(TRIMMING[name], core_space.build(both), (1.0, 0.5))
    assert relative(made["layers.0.v"], 0.5 * dense(both[1].factors["layers.0.v"])) < EXACT


@trimming
def test_parents_without_a_common_module_are_untouched(name: str) -> None:
    both = [adapter("a", seed=0, modules=["layers.0.q"]), adapter("b", seed=1, modules=["layers.1.q"])]
    made = merged(TRIMMING[name], core_space.build(both), (1.0, 1.0))
    for parent in both:
        for module, update in parent.factors.items():
            assert relative(made[module], dense(update)) < EXACT


@trimming
@settings(deadline=None, max_examples=fuzzing.examples(5))
@given(order=st.permutations(range(3)), weights=st.tuples(*[st.floats(0.1, 2)] * 3), seed=st.integers(0, 99))
def test_the_order_of_parents_does_not_matter(
    name: str, order: list[int], weights: tuple[float, float, float], seed: int
) -> None:
    three = parents()
    first = merged(TRIMMING[name], core_space.build(three), weights, seed)
    second = merged(TRIMMING[name], core_space.build([three[t] for t in order]), tuple(weights[t] for t in order), seed)
    for module in SHAPES:
        assert relative(second[module], first[module]) < 1e-3


@trimming
@settings(deadline=None, max_examples=fuzzing.examples(5))
@given(c=st.floats(0.01, 100))
def test_scaling_a_parents_factors_changes_nothing(name: str, c: float) -> None:
    three = parents()
    scaled = {m: Factors(B=f.B * c, A=f.A / c) for m, f in three[0].factors.items()}
    # The digest is of the stored content, so the rescaled parent keeps its old digest here.
    other = [dataclasses.replace(three[0], factors=scaled), *three[1:]]
    first, second = (merged(TRIMMING[name], core_space.build(adapters), (1.0, 1.0, 1.0)) for adapters in (three, other))
    for module in SHAPES:
        assert relative(second[module], first[module]) < 1e-3


@trimming
@settings(deadline=None, max_examples=fuzzing.examples(5))
@given(scale=st.floats(0.05, 4))
def test_result_is_linear_in_a_common_factor_of_the_weights(name: str, scale: float) -> None:
    core = core_space.build(parents())
    first = merged(TRIMMING[name], core, (1.0, 0.5, 2.0))
    second = merged(TRIMMING[name], core, (scale, 0.5 * scale, 2.0 * scale))
    for module in SHAPES:
        assert relative(second[module], scale * first[module]) < EXACT


@neutral
def test_rank_1(name: str) -> None:
    core = core_space.build(parents(2, rank=1))
    made = merged(NEUTRAL[name], core, (1.0, 1.0))
    assert all(np.isfinite(update).all() and np.linalg.matrix_rank(update, tol=1e-5) <= 2 for update in made.values())


@neutral
def test_zero_adapter_keeps_the_direction_of_the_other(name: str) -> None:
    one, zero = adapter("a", seed=0), adapter("z", seed=1, scale=0.0)
    made = merged(NEUTRAL[name], core_space.build([one, zero]), (1.0, 1.0))
    for module, update in one.factors.items():
        cosine = np.vdot(made[module], dense(update)) / np.linalg.norm(made[module]) / np.linalg.norm(dense(update))
        assert cosine == pytest.approx(1, abs=1e-6)


# Factor of ΔW for two equal parents: sums give it twice, means once. Equal vectors cannot be made orthogonal, so each
# parent gets half of the energy on every orthogonalized side.
TWICE = {
    "linear": 2, "linear, parents' norm": 1, "cat": 2, "ties": 1, "dare": 2, "dare then ties": 1,
    "tsv": 1, "tsv left": math.sqrt(2), "tsv right": math.sqrt(2),
}  # fmt: skip


@neutral
def test_identical_parents(name: str) -> None:
    one = adapter("a", seed=0)
    core = core_space.build([one, dataclasses.replace(one, name="b")])
    made = merged(NEUTRAL[name], core, (1.0, 1.0))
    for module, update in one.factors.items():
        assert relative(made[module], TWICE[name] * dense(update)) < EXACT


@neutral
def test_opposite_parents_cancel(name: str) -> None:
    one = adapter("a", seed=0)
    negative = ParentAdapter.of("b", {m: Factors(B=-f.B, A=f.A) for m, f in one.factors.items()})
    made = merged(NEUTRAL[name], core_space.build([one, negative]), (1.0, 1.0))
    for module, update in one.factors.items():
        assert np.linalg.norm(made[module]) < 1e-4 * np.linalg.norm(dense(update))


@pytest.mark.parametrize("kernel", [(linear, p.LinearParameters()), (cat, NoParameters())], ids=["linear", "cat"])
@settings(deadline=None, max_examples=fuzzing.examples(10))
@given(
    ranks=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
)
def test_linear_and_cat_equal_the_dense_sum(
    kernel: tuple[ModuleType, Value], ranks: list[int], weights: list[float]
) -> None:
    adapters = [adapter(f"p{t}", seed=t, rank=rank) for t, rank in enumerate(ranks)]
    w = tuple(weights[: len(adapters)])
    made = merged(kernel, core_space.build(adapters), w)
    size = max(np.linalg.norm(dense(x.factors[m])) for x in adapters for m in SHAPES)
    for module in SHAPES:
        assert np.linalg.norm(made[module] - dense_sum(adapters, w, module)) < EXACT * size


def test_truncated_linear_equals_the_dense_svd_of_the_dense_sum() -> None:
    adapters = [adapter("a", seed=0, rank=2), adapter("b", seed=1, rank=5)]
    core = core_space.build(adapters)
    made = truncation.truncate(core, linear.merge(core, (0.7, 0.3), p.LinearParameters(), seed=0), 3)
    for module, update in made.items():
        U, S, Vh = np.linalg.svd(dense_sum(adapters, (0.7, 0.3), module))
        assert relative(dense(update), (U[:, :3] * S[:3]) @ Vh[:3]) < 1e-4


def test_cat_keeps_every_parents_rank() -> None:
    core = core_space.build([adapter("a", seed=0, rank=2), adapter("b", seed=1, rank=3)])
    made = truncation.truncate(core, cat.merge(core, (1.0, 1.0), NoParameters(), seed=0))
    assert {update.rank for update in made.values()} == {5}


def test_linear_with_the_parents_norm_has_it() -> None:
    adapters = parents()
    made = merged((linear, p.LinearParameters(norm="parents")), core_space.build(adapters), (1.0, 1.0, 1.0))
    for module in SHAPES:
        mean = np.mean([np.linalg.norm(dense(x.factors[module])) for x in adapters])
        assert np.linalg.norm(made[module]) == pytest.approx(mean, rel=1e-5)


def dense_ties(cores: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    """Compute TIES as the paper defines it, entry by entry, on [T, p, q]."""
    T, rows, columns = cores.shape
    trimmed = np.zeros_like(cores)
    for t in range(T):
        order = sorted(np.ndindex(rows, columns), key=lambda at: -abs(cores[t][at]))
        for at in order[: math.ceil(density * rows * columns)]:
            trimmed[t][at] = cores[t][at]
    result = np.zeros((rows, columns))
    for at in np.ndindex(rows, columns):
        values = [trimmed[t][at] for t in range(T)]
        positive = sum(v for v in values if v > 0)
        negative = -sum(v for v in values if v < 0)
        chosen = [v for v in values if v != 0 and (v > 0) == (positive > negative)]
        result[at] = np.mean(chosen) if chosen and positive != negative else 0
    return result


@pytest.mark.parametrize("density", [1e-9, 0.1, 0.5, 1.0])
def test_ties_equals_the_dense_implementation(density: float) -> None:
    core = core_space.build(parents())
    made = ties.merge(core, (1.0, 1.0, 1.0), p.TiesParameters(density=density), seed=0)
    for module, space in core.modules.items():
        cores = torch.stack(space.cores).numpy()
        assert np.allclose(made[module].numpy(), dense_ties(cores, density), atol=1e-9)
        assert made[module].any()


def test_dare_equals_the_dense_implementation_and_keeps_the_mean() -> None:
    adapters = parents(2)
    core = core_space.build(adapters)
    total = {m: np.zeros(tuple(s.cores[0].shape)) for m, s in core.modules.items()}
    for seed in range(400):
        made = dare.merge(core, (1.0, 1.0), p.DareParameters(drop=0.7), seed=seed)
        for module in SHAPES:
            total[module] += made[module].numpy() / 400
    for module, space in core.modules.items():
        cores = torch.stack(space.cores).numpy()
        masks = np.stack(
            [dare.draw_mask(cores.shape[1], cores.shape[2], 0.7, f"399:{x.digest}:{module}").numpy() for x in adapters]
        )
        assert np.allclose(made[module].numpy(), (cores * masks / 0.3).sum(0))
        # The standard error of a mean of 400 draws is √(0.7 / 0.3 / 400) of each entry.
        error = np.linalg.norm(total[module] - cores.sum(0)) / np.linalg.norm(cores)
        assert error < 3 * math.sqrt(0.7 / 0.3 / 400)


def test_dare_masks_depend_on_seed_parent_and_module_only() -> None:
    three = parents()
    kind = p.DareParameters(drop=0.5)
    one, again = (dare.merge(core_space.build(three), (1, 1, 1), kind, seed=7) for _ in range(2))
    other = dare.merge(core_space.build(three), (1, 1, 1), kind, seed=8)
    assert all(torch.equal(one[m], again[m]) for m in SHAPES)
    assert not any(torch.equal(one[m], other[m]) for m in SHAPES)
    masks = {dare.draw_mask(8, 8, 0.5, key).numpy().tobytes() for key in ("7:a:x", "7:b:x", "7:a:y", "8:a:x")}
    assert len(masks) == 4


def dense_tsv(updates: list[NDArray[np.float64]], keep: int, sides: str) -> NDArray[np.float64]:
    """Compute TSV-M on dense matrices, with SVDs of full size."""
    parts = [np.linalg.svd(update, full_matrices=False) for update in updates]
    U = np.concatenate([u[:, :keep] for u, _, _ in parts], axis=1)
    S = np.concatenate([s[:keep] for _, s, _ in parts])
    V = np.concatenate([v[:keep] for _, _, v in parts], axis=0)
    if sides in ("left", "both"):
        P, _, Q = np.linalg.svd(U, full_matrices=False)
        U = P @ Q
    if sides in ("right", "both"):
        P, _, Q = np.linalg.svd(V, full_matrices=False)
        V = P @ Q
    return (U * S) @ V


@pytest.mark.parametrize("sides", ["both", "left", "right", "none"])
@pytest.mark.parametrize("keep", [None, 1, 2])
def test_tsv_equals_the_dense_implementation(sides: str, keep: int | None) -> None:
    two = parents(2)
    parameters = p.TsvParameters.of({"sides": sides, "keep": keep})
    made = merged((tsv, parameters), core_space.build(two), (1.0, 1.0))
    for module in SHAPES:
        expected = dense_tsv([dense(x.factors[module]) for x in two], keep or 3, sides)
        assert relative(made[module], expected) < 1e-4


def test_tsv_weights_the_singular_values_of_each_parent() -> None:
    two = parents(2)
    core = core_space.build(two)
    made = merged((tsv, p.TsvParameters()), core, (1.0, 0.0))
    for module in SHAPES:
        assert np.linalg.matrix_rank(made[module], tol=1e-4) == 3


@pytest.mark.parametrize(
    ("kind", "invalid"),
    [
        (p.TiesParameters, {"density": 0}),
        (p.TiesParameters, {"density": 1.1}),
        (p.DareParameters, {"drop": 1}),
        (p.DareParameters, {"drop": float("nan")}),
        (p.TsvParameters, {"sides": "top"}),
        (p.TsvParameters, {"keep": 0}),
        (p.LearnedParameters, {"steps": 0}),
        (p.LinearParameters, {"density": 0.5}),
    ],
)
def test_invalid_parameters_are_refused(kind: type[Value], invalid: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidSpec, match=next(iter(invalid))):
        kind.of(invalid)
