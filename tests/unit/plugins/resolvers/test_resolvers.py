"""Changes that each resolver makes, and proof that it makes no others."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from support.updates import SHAPES, adapter, dense, expand, relative

from finch_hub import errors
from finch_hub.engine.composition import conflicts, core_space
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.plugins.descriptors import NoParameters
from finch_hub.plugins.resolvers import calibrate, drop, keep, orthogonalize, priority, refuse
from finch_hub.plugins.resolvers import parameters as p
from finch_hub.specs.value import Value

CHANGING: dict[str, tuple[ModuleType, Value]] = {
    "priority": (priority, p.PriorityParameters()),
    "priority both": (priority, p.PriorityParameters(sides="both")),
    "drop": (drop, p.DropParameters()),
    "drop all": (drop, p.DropParameters(losers=False)),
    "calibrate": (calibrate, p.ResolverParameters()),
    "orthogonalize": (orthogonalize, p.OrthogonalizeParameters()),
    "orthogonalize both": (orthogonalize, p.OrthogonalizeParameters(sides="both")),
}
changing = pytest.mark.parametrize("name", CHANGING)


def overlapping_parents(count: int = 3) -> list[ParentAdapter]:
    """Return parents whose updates overlap: 3 x 3 directions in 6 to 12 dimensions."""
    return [adapter(f"p{t}", seed=t) for t in range(count)]


def updates(core: CoreSpace, parent: int) -> dict[str, np.ndarray]:
    return {module: expand(core, module, space.cores[parent]) for module, space in core.modules.items()}


def test_keep_changes_nothing() -> None:
    core = core_space.build(overlapping_parents())
    assert keep.resolve(core, NoParameters()) is core


@changing
def test_parents_without_conflict_do_not_change(name: str) -> None:
    kernel, parameters = CHANGING[name]
    both = [adapter("a", seed=0, modules=["layers.0.q"]), adapter("b", seed=1, modules=["layers.1.q", "layers.0.v"])]
    resolved = kernel.resolve(core_space.build(both), parameters)
    for t, parent in enumerate(both):
        for module, update in parent.factors.items():
            assert relative(updates(resolved, t)[module], dense(update)) < 1e-5


@changing
def test_only_matching_modules_change(name: str) -> None:
    kernel, parameters = CHANGING[name]
    parents = overlapping_parents()
    resolved = kernel.resolve(core_space.build(parents), parameters.evolve(modules=(r"^layers\.1",)))
    assert set(resolved.modules) == set(SHAPES)
    for module in SHAPES:
        changes = [relative(updates(resolved, t)[module], dense(x.factors[module])) for t, x in enumerate(parents)]
        assert (max(changes) > 0.01) == module.startswith("layers.1")


@changing
def test_input_core_space_does_not_change(name: str) -> None:
    kernel, parameters = CHANGING[name]
    core = core_space.build(overlapping_parents())
    before = [block.cores.clone() for block in core.blocks]
    kernel.resolve(core, parameters)
    assert all(torch.equal(block.cores, old) for block, old in zip(core.blocks, before, strict=True))


@pytest.mark.parametrize("sides", ["left", "right", "both"])
def test_priority_makes_later_parents_orthogonal_to_earlier_ones(sides: str) -> None:
    parents = overlapping_parents(2)
    resolved = priority.resolve(core_space.build(parents), p.PriorityParameters.of({"sides": sides}))
    for module in SHAPES:
        first, second = dense(parents[0].factors[module]), updates(resolved, 1)[module]
        assert relative(updates(resolved, 0)[module], first) < 1e-5
        size = np.linalg.norm(first) * np.linalg.norm(dense(parents[1].factors[module]))
        if sides != "right":
            assert np.linalg.norm(first.T @ second) < 1e-4 * size
        if sides != "left":
            assert np.linalg.norm(first @ second.T) < 1e-4 * size
        # The rest of the update stays, which is the projection of the dense update.
        Q = np.linalg.svd(first)[0][:, :3] if sides != "right" else np.zeros((len(first), 1))
        W = np.linalg.svd(first)[2][:3].T if sides != "left" else np.zeros((first.shape[1], 1))
        original = dense(parents[1].factors[module])
        expected = original - Q @ Q.T @ original
        expected = expected - expected @ W @ W.T
        assert np.linalg.norm(second - expected) < 1e-4 * np.linalg.norm(original)


def test_priority_follows_the_requested_order() -> None:
    core = core_space.build(overlapping_parents())
    resolved = priority.resolve(core, p.PriorityParameters(order=("p2",)))
    for module in SHAPES:
        assert relative(updates(resolved, 2)[module], updates(core, 2)[module]) < 1e-6
        assert relative(updates(resolved, 0)[module], updates(core, 0)[module]) > 0.01
    with pytest.raises(errors.Incompatible) as refused:
        priority.resolve(core, p.PriorityParameters(order=("p9", "p1", "p1")))
    assert [problem.what for problem in refused.value.problems] == ["'p9' matches no parent", "'p1' is named twice"]


def test_priority_matches_parents_by_name_without_version() -> None:
    parents = [adapter(name, seed=seed) for seed, name in enumerate(("a/1", "b/1", "c/1", "c/2"))]
    core = core_space.build(parents)
    by_name = priority.resolve(core, p.PriorityParameters(order=("b",)))
    by_version = priority.resolve(core, p.PriorityParameters(order=("b/1",)))
    assert all(map(torch.equal, (x.cores for x in by_name.blocks), (x.cores for x in by_version.blocks)))
    with pytest.raises(errors.Incompatible, match="'c' matches several parents"):
        priority.resolve(core, p.PriorityParameters(order=("c",)))


def test_priority_removes_a_copy_of_an_earlier_parent() -> None:
    one = adapter("a", seed=0)
    core = core_space.build([one, ParentAdapter.of("b", one.factors)])
    resolved = priority.resolve(core, p.PriorityParameters())
    assert all(np.linalg.norm(update) < 1e-5 for update in updates(resolved, 1).values())


def test_drop_zeroes_minority_values_or_all_disputed_values() -> None:
    core = core_space.build(overlapping_parents())
    losers = drop.resolve(core, p.DropParameters())
    everyone = drop.resolve(core, p.DropParameters(losers=False))
    for before, kept, agreed in zip(core.blocks, losers.blocks, everyone.blocks, strict=True):
        cores = before.cores.numpy()
        for at in np.ndindex(cores.shape[1:]):
            values = cores[(slice(None), *at)]
            winner = np.sign(values.sum())
            expected = np.where(np.sign(values) == winner, values, 0)
            assert np.array_equal(kept.cores.numpy()[(slice(None), *at)], expected)
            disputed = (values > 0).any() and (values < 0).any()
            assert np.array_equal(agreed.cores.numpy()[(slice(None), *at)], 0 * values if disputed else values)


def test_calibrate_equals_picos_formula_on_the_balanced_factors() -> None:
    parents = overlapping_parents()
    resolved = calibrate.resolve(core_space.build(parents), p.ResolverParameters())
    for module in SHAPES:
        stacked, halves = [], []
        for parent in parents:
            U, S, Vh = np.linalg.svd(dense(parent.factors[module]))
            stacked.append(U[:, :3] * np.sqrt(S[:3]))
            halves.append(np.sqrt(S[:3])[:, None] * Vh[:3])
        U, s, _ = np.linalg.svd(np.concatenate(stacked, axis=1), full_matrices=False)
        c = s**2 / (s**2).sum()
        alpha = 1 / (1 + 2 * c)
        for t in range(3):
            B = stacked[t] + U @ np.diag(alpha - 1) @ U.T @ stacked[t]
            assert relative(updates(resolved, t)[module], B @ halves[t]) < 1e-4


@pytest.mark.parametrize("sides", ["left", "right", "both"])
def test_orthogonalize_makes_all_parents_orthogonal_and_keeps_their_spectra(sides: str) -> None:
    # Two parents of rank 3 can be orthogonal in 6 or more dimensions.
    parents = overlapping_parents(2)
    resolved = orthogonalize.resolve(core_space.build(parents), p.OrthogonalizeParameters.of({"sides": sides}))
    for module in SHAPES:
        first, second = (updates(resolved, t)[module] for t in range(2))
        size = np.linalg.norm(first) * np.linalg.norm(second)
        if sides != "right":
            assert np.linalg.norm(first.T @ second) < 1e-4 * size
        if sides != "left":
            assert np.linalg.norm(first @ second.T) < 1e-4 * size
        for t, parent in enumerate(parents):
            before = np.linalg.svd(dense(parent.factors[module]), compute_uv=False)
            after = np.linalg.svd(updates(resolved, t)[module], compute_uv=False)
            assert np.allclose(before, after, atol=1e-4 * before[0])


def test_refuse_names_every_pair_above_the_threshold() -> None:
    one = adapter("a", seed=0)
    opposite = ParentAdapter.of("b", {m: Factors(B=-f.B, A=f.A) for m, f in one.factors.items()})
    core = core_space.build([one, opposite])
    with pytest.raises(errors.Incompatible) as refused:
        refuse.resolve(core, p.RefuseParameters())
    assert [problem.where for problem in refused.value.problems] == ["a and b"]
    assert "sign_conflict 1.00 exceeds 0.5" in str(refused.value)
    with pytest.raises(errors.Incompatible) as refused:
        refuse.resolve(core, p.RefuseParameters(measure="input_overlap", each_module=True, modules=("layers.0",)))
    assert {problem.where for problem in refused.value.problems} == {"a and b layers.0.q", "a and b layers.0.v"}
    assert refuse.resolve(core, p.RefuseParameters(threshold=1.0)) is core


def test_refuse_allows_small_conflicts() -> None:
    shapes = {"m": (64, 64)}
    core = core_space.build([adapter("a", seed=0, shapes=shapes), adapter("b", seed=1, shapes=shapes)])
    measured = conflicts.summarize_pairs(core, conflicts.measure_modules(core))[0]
    assert measured.output_overlap < 0.2
    assert refuse.resolve(core, p.RefuseParameters(measure="output_overlap", threshold=0.2)) is core


def test_invalid_regular_expression_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="not a regular expression"):
        p.DropParameters(modules=("layers.(",))
