"""Regression on the inputs, compared with a dense least-squares fit."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.adapters import VARIANTS, save_adapter
from support.updates import dense, relative
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import core_space, truncation
from finch_hub.engine.composition import parent_data as parent_data_module
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement, ValidationRows, tokenize_validation
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.parents import ParentAdapter, ParentInput, read_parent
from finch_hub.engine.composition.second_moment import SecondMoment
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
def adapters(parents: list[ParentInput]) -> list[ParentAdapter]:
    return [read_parent(parent.folder, parent.name) for parent in parents]


@pytest.fixture
def rows(parents: list[ParentInput], tiny_base: Base) -> list[ValidationRows | None]:
    return tokenize_validation(parents, tiny_base)


@pytest.fixture
def parent_data(
    tiny_base: Base, adapters: list[ParentAdapter], rows: list[ValidationRows | None]
) -> Iterator[ParentData]:
    with Measurement(tiny_base, adapters, rows) as measurement:
        yield ParentData(measurement, base=measurement.measure(None), own=measurement.measure_parents())


def inputs(base: Base, rows: ValidationRows) -> NDArray[np.float64]:
    """Return the inputs of the first layer's q_proj, the normed embeddings, which no adapter changes."""
    ids = torch.cat([batches.pack([row], share_prefix=False).input_ids.flatten() for row in rows.selection])
    with torch.no_grad():
        embedded = base.model.model.layers[0].input_layernorm(base.model.get_input_embeddings()(ids))
    return embedded.double().numpy()


@pytest.mark.parametrize("prior", ["mean", "tsv"])
def test_regmean_equals_a_dense_least_squares_fit(
    prior: str,
    tiny_base: Base,
    adapters: list[ParentAdapter],
    rows: list[ValidationRows | None],
    parent_data: ParentData,
) -> None:
    core = core_space.build(adapters)
    weights = (1.0, 2.0, -0.5)
    level = float(np.mean(np.abs(weights)))
    asked = RegmeanParameters.of({"ridge": 0.05, "prior": prior})
    made = regmean.merge(core, weights, asked, seed=0, parent_data=parent_data)
    left, right = [], []
    for adapter, parent_rows, w in zip(adapters, rows, weights, strict=True):
        assert parent_rows is not None
        seen = inputs(tiny_base, parent_rows)
        seen /= np.linalg.norm(seen)
        left.append(np.sqrt(abs(w)) * seen)
        right.append(np.sqrt(abs(w)) * np.sign(w) * seen @ dense(adapter.factors[Q]).T)
    weighted = [w * dense(adapter.factors[Q]) for adapter, w in zip(adapters, weights, strict=True)]
    mean = np.sum(weighted, axis=0) / (3 * level)
    orthogonal = truncation.truncate(core, tsv.merge(core, weights, TsvParameters(), seed=0))
    size = mean.shape[1]
    strength = np.sqrt(asked.ridge / size * 3 * level)
    left.append(strength * np.eye(size))
    right.append(strength * (mean if prior == "mean" else dense(orthogonal[Q]) / level).T)
    found, *_ = np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)
    assert relative(dense(made[Q]), level * found.T) < 1e-4
    # Truncation gives the best fit of that rank on these inputs: the leading output directions.
    U, _, _ = np.linalg.svd((np.concatenate(left) @ found).T, full_matrices=False)
    best = level * U[:, :2] @ U[:, :2].T @ found.T
    assert relative(dense(truncation.truncate(core, made, 2)[Q]), best) < 1e-3


def test_regmean_with_small_ridge_fits_each_parents_inputs(
    tiny_base: Base, adapters: list[ParentAdapter], rows: list[ValidationRows | None], parent_data: ParentData
) -> None:
    core = core_space.build(adapters)
    made = regmean.merge(core, (1.0,) * 3, RegmeanParameters(ridge=1e-6), seed=0, parent_data=parent_data)
    plain = np.sum([dense(adapter.factors[Q]) for adapter in adapters], axis=0)
    for adapter, parent_rows in zip(adapters, rows, strict=True):
        assert parent_rows is not None
        X = inputs(tiny_base, parent_rows)
        wanted = X @ dense(adapter.factors[Q]).T
        error = np.linalg.norm(X @ dense(made[Q]).T - wanted)
        assert error < 0.7 * np.linalg.norm(X @ plain.T - wanted)


def test_regmean_scales_with_weights_and_ignores_factor_scaling(
    adapters: list[ParentAdapter], parent_data: ParentData
) -> None:
    core = core_space.build(adapters)
    first = regmean.merge(core, (1.0, 0.5, 2.0), PARAMETERS, seed=0, parent_data=parent_data)
    twice = regmean.merge(core, (2.0, 1.0, 4.0), PARAMETERS, seed=0, parent_data=parent_data)
    for module in core.modules:
        assert relative(dense(twice[module]), 2 * dense(first[module])) < 1e-5
    scaled = {m: Factors(B=f.B * 7, A=f.A / 7) for m, f in adapters[0].factors.items()}
    other = core_space.build([dataclasses.replace(adapters[0], factors=scaled), *adapters[1:]])
    again = regmean.merge(other, (1.0, 0.5, 2.0), PARAMETERS, seed=0, parent_data=parent_data)
    for module in core.modules:
        assert relative(dense(again[module]), dense(first[module])) < 1e-3


def test_parent_without_rows_uses_identity_moments(
    tiny_base: Base, adapters: list[ParentAdapter], rows: list[ValidationRows | None]
) -> None:
    tiny = {m: Factors(B=1e-6 * f.B, A=f.A) for m, f in adapters[0].factors.items()}
    two = [adapters[0], ParentAdapter.of("tiny", tiny)]
    with Measurement(tiny_base, two, [rows[0], None]) as measurement:
        parent_data = ParentData(measurement, base=measurement.measure(None), own=measurement.measure_parents())
        core = core_space.build(two)
        made = regmean.merge(core, (1.0, 1.0), RegmeanParameters(ridge=1e-9), seed=0, parent_data=parent_data)
    # The tiny parent pulls all directions to zero equally, so the other parent keeps most on its own inputs.
    assert 0 < np.linalg.norm(dense(made[Q])) < np.linalg.norm(dense(two[0].factors[Q]))


def test_modules_with_the_same_inputs_share_their_moments(
    adapters: list[ParentAdapter], parent_data: ParentData
) -> None:
    (moments,) = parent_data.input_moments(core_space.build(adapters), rows=PARAMETERS.rows)
    attention = tuple(f"model.layers.0.self_attn.{name}_proj" for name in "kqv")
    assert attention in moments
    assert len(moments) == 4 * 2  # of a layer: attention, its output, gate and up, down


def test_moments_beyond_the_memory_limit_are_measured_in_parts(
    adapters: list[ParentAdapter], parent_data: ParentData, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_space.build(adapters)
    whole = regmean.merge(core, (1.0,) * 3, PARAMETERS, seed=0, parent_data=parent_data)
    monkeypatch.setattr(parent_data_module, "_MAX_MOMENT_ELEMENTS", 1)
    parts_of = [modules for part in parent_data.input_moments(core, rows=PARAMETERS.rows) for modules in part]
    assert parts_of == [(module,) for module in core.modules]
    parts = regmean.merge(core, (1.0,) * 3, PARAMETERS, seed=0, parent_data=parent_data)
    for module, update in whole.items():
        assert relative(dense(parts[module]), dense(update)) < 1e-6


class MemoryCount(TorchDispatchMode):
    """Bytes of the tensors that this thread's operations made and that are still in use, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in storages_in((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for storage in storages_in(result):
            if storage._cdata not in given:  # otherwise it is a view
                self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return result


def storages_in(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def test_moments_take_less_memory_than_their_matrices(adapters: list[ParentAdapter], parent_data: ParentData) -> None:
    core = core_space.build(adapters)
    with MemoryCount() as memory:
        (moments,) = parent_data.input_moments(core, rows=PARAMETERS.rows)
    matrices = sum(4 * len(adapters) * len(core.modules[group[0]].right) ** 2 for group in moments)
    assert matrices / 2 < memory.peak < 0.9 * matrices  # with the hidden states of one example


def test_one_part_of_the_moments_is_in_memory(
    adapters: list[ParentAdapter], parent_data: ParentData, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_space.build(adapters)
    monkeypatch.setattr(parent_data_module, "_MAX_MOMENT_ELEMENTS", 1)
    collect = parent_data.measurement.collect_moments
    alive: list[int] = []

    def count_and_collect(*args: Any, **options: Any) -> Any:
        alive.append(sum(type(found) is SecondMoment for found in gc.get_objects()))
        return collect(*args, **options)

    monkeypatch.setattr(parent_data.measurement, "collect_moments", count_and_collect)
    gc.collect()  # moments of other tests
    regmean.merge(core, (1.0,) * 3, PARAMETERS, seed=0, parent_data=parent_data)
    assert alive == [0, 1, 2] * len(core.modules)


def test_factors_do_not_lie_between_the_matrices_of_the_fits(
    adapters: list[ParentAdapter], parent_data: ParentData
) -> None:
    core = core_space.build(adapters)
    made = regmean.merge(core, (1.0,) * 3, PARAMETERS, seed=0, parent_data=parent_data)
    pieces = {factor.untyped_storage().data_ptr() for update in made.values() for factor in (update.A, update.B)}
    assert len(pieces) == 2 * len(core.blocks) < 2 * len(made)


def test_module_of_one_parent_keeps_that_parents_update(
    tiny_base: Base, adapters: list[ParentAdapter], rows: list[ValidationRows | None]
) -> None:
    less = ParentAdapter.of("less", {module: f for module, f in adapters[1].factors.items() if module != Q})
    two = [adapters[0], less]
    with Measurement(tiny_base, two, rows[:2]) as measurement:
        parent_data = ParentData(measurement, base=measurement.measure(None), own=measurement.measure_parents())
        made = regmean.merge(core_space.build(two), (0.5, 1.0), PARAMETERS, seed=0, parent_data=parent_data)
    assert relative(dense(made[Q]), 0.5 * dense(adapters[0].factors[Q])) < 1e-5
    shared = next(module for module in less.factors if module in adapters[0].factors)
    assert relative(dense(made[shared]), 0.5 * dense(adapters[0].factors[shared])) > 0.01
