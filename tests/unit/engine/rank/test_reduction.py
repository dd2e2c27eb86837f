"""Reduction of the rank after training: the directions that stay, decided by the held-out loss."""

from __future__ import annotations

import pytest
import torch
from support.training import adapted, dense_updates, lessons

from finch_hub.engine.bases.base import Base
from finch_hub.engine.data import splitting
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.rank import reduction
from finch_hub.engine.training import loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

TRAINING = TrainingConfig(epochs=4, batch_size=4, learning_rate=5e-3, threads=1, validation=0.25)


def test_a_cut_is_the_best_approximation_of_its_rank_and_drops_modules_of_rank_0(tiny_base: Base) -> None:
    adapter = adapted(tiny_base)
    weights = adapter.weights()
    paths = list(weights.modules)
    ranks = {path: number % 4 for number, path in enumerate(paths)}
    smaller = reduction.cut_to_ranks(tiny_base, adapter, ranks)
    found = smaller.weights()
    assert {path: module.rank for path, module in found.modules.items()} == {p: r for p, r in ranks.items() if r}
    assert smaller.trainable_parameters == found.num_parameters
    for path, update in dense_updates(found).items():
        values = torch.linalg.svdvals(dense_updates(weights)[path])
        error = torch.linalg.matrix_norm(dense_updates(weights)[path] - update)
        assert error == pytest.approx(float(values[ranks[path] :].norm()), rel=1e-4)


def test_an_automatic_rank_is_smaller_and_within_the_tolerance(tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=16.0, target_modules="all-linear", rank_tolerance=0.02)
    trained = loop.train(tiny_base, config, TRAINING, lessons(48))
    report = trained.report
    assert report.rank is not None
    assert report.after is not None
    assert report.after.loss <= report.rank["uncut_loss"] * 1.021
    assert report.trainable_parameters == trained.adapter.trainable_parameters == report.rank["parameters"]
    assert report.trainable_parameters < 0.7 * report.rank["trained_parameters"]
    assert {path: module.rank for path, module in trained.adapter.weights().modules.items()} == {
        path: size for path, size in report.rank["rank_pattern"].items() if size
    }
    held_out = splitting.split_examples(lessons(48), TRAINING.validation, TRAINING.seed)[1]
    again = evaluation.measure(tiny_base, tokenize_all(held_out, tiny_base.tokenizer, max_length=512))
    assert again.loss == pytest.approx(report.after.loss, rel=1e-6)


def test_training_keeps_the_rank_budget(tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=16.0, rank_budget=2000)
    trained = loop.train(tiny_base, config, TRAINING.evolve(epochs=1), lessons(40))
    assert 0 < trained.adapter.trainable_parameters <= 2000
