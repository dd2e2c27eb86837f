"""Regression on the inputs: against a dense least-squares fit, and the algebra that holds for every strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.adapters import VARIANTS, save_adapter
from support.updates import dense, relative

from finch_hub.engine.bases.loading import Base
from finch_hub.engine.composition import core_space, factors, truncation
from finch_hub.engine.composition import parent_data as objective_module
from finch_hub.engine.composition.compatibility import ParentInput
from finch_hub.engine.composition.factors import Adapter, Factors
from finch_hub.engine.composition.measurement import Bench, Rows, rows_of
from finch_hub.engine.composition.parent_data import Objective
from finch_hub.engine.data import batches
from finch_hub.plugins.strategies import regmean, tsv
from finch_hub.plugins.strategies.parameters import RegmeanParameters, TsvParameters
from finch_hub.specs.examples import Example

Q = "model.layers.0.self_attn.q_proj"
TEXTS = {"a": "What does a finch eat?", "b": "Where do finches live, and why do they sing there?", "c": "Who?"}
PARAMETERS = RegmeanParameters(ridge=0.05)


@pytest.fixture
def parents(tiny_folder: Path, tmp_path: Path) -> list[ParentInput]:
    found = []
    for seed, (name, text) in enumerate(TEXTS.items()):
        save_adapter(tiny_folder, tmp_path / name, seed=seed, **VARIANTS["plain"])
        rows = [Example.of_pair(text, f"{name}: it {verb} all day.") for verb in ("eats", "sings")]
        found.append(ParentInput(name=name, folder=tmp_path / name, validation=rows))
    return found


@pytest.fixture
def adapters(parents: list[ParentInput]) -> list[Adapter]:
    return [factors.read(parent.folder, parent.name) for parent in parents]


@pytest.fixture
def rows(parents: list[ParentInput], tiny_base: Base) -> list[Rows | None]:
    return rows_of(parents, tiny_base)


@pytest.fixture
def objective(tiny_base: Base, adapters: list[Adapter], rows: list[Rows | None]) -> Iterator[Objective]:
    with Bench(tiny_base, adapters, rows) as bench:
        yield Objective(bench, base=bench.measure(None), own=bench.measure_parents())


def inputs(base: Base, rows: Rows) -> NDArray[np.float64]:
    """Return what the first layer's q_proj is given, which no adapter changes: the normed embeddings."""
    ids = torch.cat([batches.pack([row], share_prefix=False).input_ids.flatten() for row in rows.selection])
    with torch.no_grad():
        embedded = base.model.model.layers[0].input_layernorm(base.model.get_input_embeddings()(ids))
    return embedded.double().numpy()


@pytest.mark.parametrize("prior", ["mean", "tsv"])
def test_equals_a_dense_least_squares_fit(
    prior: str, tiny_base: Base, adapters: list[Adapter], rows: list[Rows | None], objective: Objective
) -> None:
    core = core_space.build(adapters)
    weights = (1.0, 2.0, -0.5)
    level = float(np.mean(np.abs(weights)))
    asked = RegmeanParameters.of({"ridge": 0.05, "prior": prior})
    made = regmean.merge(core, weights, asked, seed=0, objective=objective)
    left, right = [], []
    for adapter, of_parent, w in zip(adapters, rows, weights, strict=True):
        assert of_parent is not None
        seen = inputs(tiny_base, of_parent)
        seen /= np.linalg.norm(seen)
        left.append(np.sqrt(abs(w)) * seen)
        right.append(np.sqrt(abs(w)) * np.sign(w) * seen @ dense(adapter.factors[Q]).T)
    mean = sum(w * dense(adapter.factors[Q]) for adapter, w in zip(adapters, weights, strict=True)) / (3 * level)
    orthogonal = truncation.lift(core, tsv.merge(core, weights, TsvParameters(), seed=0))
    size = mean.shape[1]
    strength = np.sqrt(asked.ridge / size * 3 * level)
    left.append(strength * np.eye(size))
    right.append(strength * (mean if prior == "mean" else dense(orthogonal[Q]) / level).T)
    found, *_ = np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)
    assert relative(dense(made[Q]), level * found.T) < 1e-4
    # Cut to a rank, it is the fit of that rank which answers these inputs best: its own leading outputs on them.
    U, _, _ = np.linalg.svd((np.concatenate(left) @ found).T, full_matrices=False)
    best = level * U[:, :2] @ U[:, :2].T @ found.T
    assert relative(dense(truncation.lift(core, made, 2)[Q]), best) < 1e-3


def test_a_little_ridge_fits_a_parents_own_inputs(
    tiny_base: Base, adapters: list[Adapter], rows: list[Rows | None], objective: Objective
) -> None:
    core = core_space.build(adapters)
    made = regmean.merge(core, (1.0,) * 3, RegmeanParameters(ridge=1e-6), seed=0, objective=objective)
    plain = sum(dense(adapter.factors[Q]) for adapter in adapters)
    for adapter, of_parent in zip(adapters, rows, strict=True):
        assert of_parent is not None
        X = inputs(tiny_base, of_parent)
        wanted = X @ dense(adapter.factors[Q]).T
        error = np.linalg.norm(X @ dense(made[Q]).T - wanted)
        assert error < 0.7 * np.linalg.norm(X @ plain.T - wanted)


def test_order_factors_and_a_common_weight(adapters: list[Adapter], objective: Objective) -> None:
    core = core_space.build(adapters)
    first = regmean.merge(core, (1.0, 0.5, 2.0), PARAMETERS, seed=0, objective=objective)
    twice = regmean.merge(core, (2.0, 1.0, 4.0), PARAMETERS, seed=0, objective=objective)
    for module in core.modules:
        assert relative(dense(twice[module]), 2 * dense(first[module])) < 1e-5
    scaled = {m: Factors(B=f.B * 7, A=f.A / 7) for m, f in adapters[0].factors.items()}
    other = core_space.build([dataclasses.replace(adapters[0], factors=scaled), *adapters[1:]])
    again = regmean.merge(other, (1.0, 0.5, 2.0), PARAMETERS, seed=0, objective=objective)
    for module in core.modules:
        assert relative(dense(again[module]), dense(first[module])) < 1e-3


def test_a_parent_without_rows_may_be_asked_anything(
    tiny_base: Base, adapters: list[Adapter], rows: list[Rows | None]
) -> None:
    two = [adapters[0], adapters[0].of("zero", {m: Factors(B=0 * f.B, A=f.A) for m, f in adapters[0].factors.items()})]
    with Bench(tiny_base, two, [rows[0], None]) as bench:
        objective = Objective(bench, base=bench.measure(None), own=bench.measure_parents())
        core = core_space.build(two)
        made = regmean.merge(core, (1.0, 1.0), RegmeanParameters(ridge=1e-9), seed=0, objective=objective)
    # It answers with zero in every direction alike, so the other keeps most where its own inputs are.
    assert 0 < np.linalg.norm(dense(made[Q])) < np.linalg.norm(dense(two[0].factors[Q]))


def test_modules_that_are_given_the_same_inputs_share_their_moments(
    adapters: list[Adapter], objective: Objective
) -> None:
    (moments,) = objective.inputs(core_space.build(adapters), rows=PARAMETERS.rows)
    attention = tuple(f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
    assert attention in moments
    assert len(moments) == 4 * 2  # of a layer: attention, its output, gate and up, down


def test_moments_that_memory_cannot_hold_at_once_are_measured_part_by_part(
    adapters: list[Adapter], objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_space.build(adapters)
    whole = regmean.merge(core, (1.0,) * 3, PARAMETERS, seed=0, objective=objective)
    monkeypatch.setattr(objective_module, "_MOMENTS", 1)
    parts_of = [modules for part in objective.inputs(core, rows=PARAMETERS.rows) for modules in part]
    assert parts_of == [(module,) for module in core.modules]
    parts = regmean.merge(core, (1.0,) * 3, PARAMETERS, seed=0, objective=objective)
    for module, update in whole.items():
        assert relative(dense(parts[module]), dense(update)) < 1e-6


def test_a_module_that_one_parent_alone_adapts_is_its_own(
    tiny_base: Base, adapters: list[Adapter], rows: list[Rows | None]
) -> None:
    less = Adapter.of("less", {module: f for module, f in adapters[1].factors.items() if module != Q})
    two = [adapters[0], less]
    with Bench(tiny_base, two, rows[:2]) as bench:
        objective = Objective(bench, base=bench.measure(None), own=bench.measure_parents())
        made = regmean.merge(core_space.build(two), (0.5, 1.0), PARAMETERS, seed=0, objective=objective)
    assert relative(dense(made[Q]), 0.5 * dense(adapters[0].factors[Q])) < 1e-5
    shared = next(module for module in less.factors if module in adapters[0].factors)
    assert relative(dense(made[shared]), 0.5 * dense(adapters[0].factors[shared])) > 0.01
