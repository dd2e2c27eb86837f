"""Measures of conflict at their extremes and compared with dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from support.updates import SHAPES, adapter, dense

from finch_hub.engine.composition import conflicts, core_space
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter


def scaled(parent: ParentAdapter, name: str, factor: float) -> ParentAdapter:
    return ParentAdapter.of(name, {m: Factors(B=f.B * factor, A=f.A) for m, f in parent.factors.items()})


@pytest.mark.parametrize(("factor", "cosine", "signs"), [(1.0, 1.0, 0.0), (0.25, 1.0, 0.0), (-0.5, -1.0, 1.0)])
def test_copies_overlap_completely(factor: float, cosine: float, signs: float) -> None:
    one = adapter("a", seed=0)
    report = conflicts.diagnose(core_space.build([one, scaled(one, "b", factor)]))
    assert len(report.modules) == len(SHAPES)
    for pair in (*report.modules, *report.pairs):
        assert pair.output_overlap == pytest.approx(1)
        assert pair.input_overlap == pytest.approx(1)
        assert pair.cosine == pytest.approx(cosine)
        assert pair.sign_conflict == pytest.approx(signs)
        assert pair.norm_ratio == pytest.approx(abs(factor))
        assert (pair.first, pair.second) == ("a", "b")


def test_updates_on_separate_outputs_and_inputs_do_not_overlap() -> None:
    one, two = adapter("a", seed=0), adapter("b", seed=1)
    for module, (out, inside) in SHAPES.items():
        one.factors[module].B[out // 2 :] = 0
        two.factors[module].B[: out // 2] = 0
        one.factors[module].A[:, inside // 2 :] = 0
        two.factors[module].A[:, : inside // 2] = 0
    report = conflicts.diagnose(core_space.build([one, two]))
    for pair in report.pairs:
        for measure in ("output_overlap", "input_overlap", "cosine"):
            assert getattr(pair, measure) == pytest.approx(0, abs=1e-6)


def test_measures_equal_dense_arithmetic() -> None:
    one, two = adapter("a", seed=0), adapter("b", seed=1, rank=2)
    report = conflicts.diagnose(core_space.build([one, two]))
    for pair in report.modules:
        X, Y = dense(one.factors[pair.module]), dense(two.factors[pair.module])
        (U, _, V), (P, _, Q) = np.linalg.svd(X), np.linalg.svd(Y)
        assert pair.output_overlap == pytest.approx(np.linalg.norm(U[:, :3].T @ P[:, :2]) ** 2 / 2, rel=1e-4)
        assert pair.input_overlap == pytest.approx(np.linalg.norm(V[:3] @ Q[:2].T) ** 2 / 2, rel=1e-4)
        norms = np.linalg.norm(X), np.linalg.norm(Y)
        assert pair.cosine == pytest.approx(np.vdot(X, Y) / np.prod(norms), abs=1e-5)
        assert pair.norm_ratio == pytest.approx(min(norms) / max(norms), rel=1e-4)


def test_pairs_are_means_weighted_by_the_size_of_the_updates() -> None:
    core = core_space.build([adapter("a", seed=0), adapter("b", seed=1)])
    modules = conflicts.measure_modules(core)
    (pair,) = conflicts.summarize_pairs(core, modules)
    weights = [np.prod([np.linalg.norm(core.modules[c.module].cores[t].numpy()) for t in range(2)]) for c in modules]
    assert pair.cosine == pytest.approx(np.average([c.cosine for c in modules], weights=weights))


def test_pairs_without_a_common_module_are_omitted() -> None:
    both = [adapter("a", seed=0, modules=["layers.0.q"]), adapter("b", seed=1, modules=["layers.0.v"])]
    report = conflicts.diagnose(core_space.build(both))
    assert report.pairs == ()
    assert report.shared_direction == 0


def test_shared_direction_holds_all_energy() -> None:
    one = adapter("a", seed=0, rank=1)
    report = conflicts.diagnose(core_space.build([one, scaled(one, "b", 1.0)]))
    assert report.shared_direction == pytest.approx(1)


@pytest.mark.parametrize(
    ("factors_of_modules", "is_copy"),
    [
        ([1.0] * len(SHAPES), True),
        ([1.001] * len(SHAPES), True),
        ([0.9] * len(SHAPES), False),
        ([1.0] * (len(SHAPES) - 1) + [-1.0], False),
    ],
)
def test_copies_are_nearly_equal_in_each_module(factors_of_modules: list[float], *, is_copy: bool) -> None:
    one = adapter("a", seed=0)
    for factors in list(one.factors.values())[1:]:
        factors.B.mul_(1e-4)  # so that the mean over the modules shows only the first
    changed = zip(one.factors.items(), factors_of_modules, strict=True)
    other = ParentAdapter.of("b", {m: Factors(B=f.B * factor, A=f.A) for (m, f), factor in changed})
    report = conflicts.diagnose(core_space.build([other, one]))
    assert (report.advice == "leave one out") is is_copy
    assert ("a and b are nearly equal in each module that both change" in report.reasons) is is_copy


def test_copies_may_leave_modules_unchanged() -> None:
    one = adapter("a", seed=0)
    next(iter(one.factors.values())).B.zero_()
    assert conflicts.diagnose(core_space.build([one, scaled(one, "b", 1.0)])).advice == "leave one out"
