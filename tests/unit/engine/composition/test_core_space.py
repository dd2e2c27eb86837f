"""The core space is lossless and canonical; truncation equals the truncated dense SVD."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fuzzing
from support.updates import SHAPES, adapter, dense, dense_sum, expand, relative

from finch_hub import errors
from finch_hub.engine.composition import core_space, truncation
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter

FLOAT32 = 2e-6


def rescale_factors(parent: ParentAdapter, c: float) -> ParentAdapter:
    """Return the same update, stored as (cB, A/c)."""
    return dataclasses.replace(parent, factors={m: Factors(B=f.B * c, A=f.A / c) for m, f in parent.factors.items()})


def summed(core: core_space.CoreSpace) -> dict[str, torch.Tensor]:
    return core.merge([1.0] * len(core.parents), lambda block, w: block.cores.sum(0))


@settings(deadline=None, max_examples=fuzzing.examples(25))
@given(
    ranks=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    missing=st.sets(st.sampled_from(sorted(SHAPES)), max_size=2),
    exponent=st.integers(-4, 4),
    seed=st.integers(0, 2**16),
)
def test_projection_is_lossless(ranks: list[int], missing: set[str], exponent: int, seed: int) -> None:
    parents = [
        adapter(
            f"p{t}",
            seed=seed + t,
            rank=rank,
            scale=10.0**exponent,
            modules=[m for m in SHAPES if t > 0 or m not in missing] if len(ranks) > 1 else None,
        )
        for t, rank in enumerate(ranks)
    ]
    core = core_space.build(parents)
    assert set(core.modules) == set(SHAPES)
    for module, space in core.modules.items():
        for t, parent in enumerate(parents):
            assert (t in space.present) == (module in parent.factors)
            expected = dense(parent.factors[module]) if t in space.present else np.zeros(SHAPES[module])
            assert relative(expand(core, module, space.cores[t]), expected) < FLOAT32
        for basis in (space.left, space.right):
            assert torch.allclose(basis.mT @ basis, torch.eye(basis.shape[1]), atol=1e-5)


def test_bases_of_wide_spectra_are_orthonormal() -> None:
    # Singular values from 1 to 1e-5, which a Gram matrix alone resolves to three digits only.
    made = adapter("a", seed=0, rank=6)
    decades = torch.logspace(0, -5, 6)
    wide = ParentAdapter.of("wide", {m: Factors(B=f.B * decades, A=f.A) for m, f in made.factors.items()})
    core = core_space.build([wide, adapter("b", seed=1, rank=4)])
    for module, space in core.modules.items():
        assert torch.allclose(space.left.mT @ space.left, torch.eye(space.left.shape[1]), atol=1e-5)
        assert relative(expand(core, module, space.cores[0]), dense(wide.factors[module])) < FLOAT32
    restored = truncation.truncate(core, {module: space.cores[0] for module, space in core.modules.items()})
    for module, update in restored.items():
        assert relative(dense(update), dense(wide.factors[module])) < FLOAT32


@settings(deadline=None, max_examples=fuzzing.examples(20))
@given(c=st.floats(1e-4, 1e4), seed=st.integers(0, 2**16))
def test_scaling_a_parents_factors_changes_nothing(c: float, seed: int) -> None:
    first, second = adapter("a", seed=seed), adapter("b", seed=seed + 1)
    plain, scaled = (core_space.build([x, second]) for x in (first, rescale_factors(first, c)))
    for one, other in zip(plain.blocks, scaled.blocks, strict=True):
        # The factors are float32, so a value is exact to some digits of the largest one.
        largest = float(one.outputs.values.max())
        assert torch.allclose(one.outputs.values, other.outputs.values, rtol=1e-5, atol=1e-6 * largest)
        # The same basis up to signs, so the cores agree in magnitude entry by entry.
        assert torch.allclose(one.cores.abs(), other.cores.abs(), rtol=1e-3, atol=1e-4 * float(one.cores.abs().max()))


def test_the_order_of_parents_permutes_the_cores_only() -> None:
    parents = [adapter(name, seed=i) for i, name in enumerate("abc")]
    forward, backward = core_space.build(parents), core_space.build(parents[::-1])
    for one, other in zip(forward.blocks, backward.blocks, strict=True):
        assert torch.allclose(one.outputs.values, other.outputs.values, rtol=1e-6)
        assert torch.allclose(one.cores.abs(), other.cores.flip(0).abs(), atol=1e-4 * float(one.cores.abs().max()))


def test_left_basis_is_that_of_the_balanced_factors() -> None:
    parents = [adapter("a", seed=0), adapter("b", seed=1)]
    core = core_space.build(parents)
    for module, space in core.modules.items():
        balanced = []
        for parent in parents:
            U, S, _ = np.linalg.svd(dense(parent.factors[module]))
            balanced.append(U[:, :3] * np.sqrt(S[:3]))
        U, S, _ = np.linalg.svd(np.concatenate(balanced, axis=1), full_matrices=False)
        products = np.abs(U[:, : space.left.shape[1]].T @ space.left.double().numpy())
        assert np.allclose(products, np.eye(len(products)), atol=1e-4)


def test_equal_parents_share_one_small_core() -> None:
    parent = adapter("a", seed=0, rank=3)
    core = core_space.build([parent, dataclasses.replace(parent, name="b")])
    for space in core.modules.values():
        assert space.cores[0].shape == (3, 3)
        assert torch.allclose(space.cores[0], space.cores[1])


def test_a_zero_adapter_adds_nothing() -> None:
    parent, zero = adapter("a", seed=0), adapter("z", seed=1, scale=0.0)
    core = core_space.build([parent, zero])
    for module, space in core.modules.items():
        assert space.cores[0].shape == (3, 3)
        assert not space.cores[1].any()
        assert relative(expand(core, module, space.cores[0]), dense(parent.factors[module])) < FLOAT32
    alone = core_space.build([zero])
    assert all(not f.B.any() for f in truncation.truncate(alone, summed(alone)).values())


def test_parents_without_a_common_module_are_both_kept() -> None:
    first = adapter("a", seed=0, modules=["layers.0.q"])
    second = adapter("b", seed=1, modules=["layers.0.v"])
    core = core_space.build([first, second])
    made = truncation.truncate(core, summed(core))
    assert sorted(made) == ["layers.0.q", "layers.0.v"]
    assert relative(dense(made["layers.0.q"]), dense(first.factors["layers.0.q"])) < FLOAT32


@settings(deadline=None, max_examples=fuzzing.examples(20))
@given(rank=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_truncation_error_is_the_discarded_singular_values(rank: int, seed: int) -> None:
    parents = [adapter("a", seed=seed), adapter("b", seed=seed + 1)]
    core = core_space.build(parents)
    made = truncation.truncate(core, summed(core), rank)
    for module, update in made.items():
        exact = dense_sum(parents, [1, 1], module)
        U, S, Vh = np.linalg.svd(exact)
        assert update.rank == min(rank, 6)
        assert np.linalg.norm(exact - dense(update)) == pytest.approx(
            np.linalg.norm(S[rank:]), rel=1e-4, abs=1e-5 * S[0]
        )
        assert relative(dense(update), (U[:, :rank] * S[:rank]) @ Vh[:rank]) < 1e-4


def test_automatic_rank_keeps_99_percent_of_all_energy_by_one_threshold() -> None:
    parents = [adapter("a", seed=0, scale=1.0), adapter("b", seed=1, scale=0.05)]
    core = core_space.build(parents)
    made = truncation.truncate(core, summed(core), "auto")
    spectra = {m: np.linalg.svd(dense_sum(parents, [1, 1], m), compute_uv=False)[:6] for m in SHAPES}
    total = sum(float((S**2).sum()) for S in spectra.values())
    lost = sum(float((S[made[m].rank :] ** 2).sum()) for m, S in spectra.items())
    assert 0 < lost <= 0.01 * total
    least_kept = min(S[made[m].rank - 1] for m, S in spectra.items())
    most_cut = max(S[made[m].rank] for m, S in spectra.items() if made[m].rank < 6)
    assert most_cut < least_kept


def test_modules_of_equal_shape_and_different_rank_get_separate_blocks() -> None:
    first = adapter("a", seed=0)
    flat = first.factors["layers.0.q"]
    thin = Factors(B=flat.B * torch.tensor([1.0, 0.0, 0.0]), A=flat.A)
    core = core_space.build([dataclasses.replace(first, factors={**first.factors, "layers.0.q": thin})])
    assert core.modules["layers.0.q"].cores[0].shape == (1, 1)
    assert core.modules["layers.1.q"].cores[0].shape == (3, 3)


def test_wrong_shapes_and_nan_are_refused_together() -> None:
    first = adapter("a", seed=0)
    second = adapter("b", seed=1, shapes={**SHAPES, "layers.0.v": (7, 10)})
    second.factors["layers.1.q"].A[0, 0] = float("nan")
    with pytest.raises(errors.Incompatible) as refused:
        core_space.build([first, second])
    text = str(refused.value)
    assert "layers.0.v" in text
    assert "[7, 10]" in text
    assert "layers.1.q" in text
    assert "NaN" in text


def test_invalid_results_of_a_strategy_are_refused() -> None:
    core = core_space.build([adapter("a", seed=0), adapter("b", seed=1)])
    valid = summed(core)
    invalid = {"layers.0.q": torch.zeros(2, 2), "layers.0.v": torch.full_like(valid["layers.0.v"], torch.nan)}
    with pytest.raises(errors.Incompatible) as refused:
        truncation.truncate(core, invalid)
    text = str(refused.value)
    assert "layers.0.q: the strategy returned shape [2, 2]" in text
    assert "layers.0.v: the strategy returned NaN" in text
    assert "layers.1.q: the strategy returned nothing" in text
    wrong = Factors(B=torch.zeros(3, 1), A=torch.zeros(1, 3))
    own = core.modules["layers.0.q"]
    outer, inner = own.left.shape[0], own.right.shape[0]
    infinite = Factors(B=torch.full((outer, 1), torch.inf), A=torch.zeros(1, inner))
    uneven = Factors(B=torch.zeros(outer, 2), A=torch.zeros(1, inner))
    for returned, words in (
        (wrong, "another shape"),
        (uneven, "another shape"),
        (infinite, "NaN or infinity"),
        ("text", "returned str"),
        (valid["layers.0.q"].float(), "returned torch.float32"),
    ):
        with pytest.raises(errors.Incompatible, match=words):
            truncation.truncate(core, {**valid, "layers.0.q": returned})  # type: ignore[dict-item]


def test_pattern_that_matches_no_module_is_refused() -> None:
    core = core_space.build([adapter("a", seed=0), adapter("b", seed=1)])
    with pytest.raises(errors.Incompatible, match=r"'layers\.9' matches no adapted module"):
        core.map(lambda block: block.cores, modules=("layers.0", "layers.9"))
