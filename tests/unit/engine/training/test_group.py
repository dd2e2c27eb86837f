"""Several jobs in one step: each result is what it would be alone, whatever happens to the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import attach
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training import loop
from finch_hub.engine.training.group import Member, MemberResult, can_join, train_group
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

WIDE = LoRAConfig(rank=8, alpha=8.0, target_modules="all-linear", dropout=0.1)
NARROW = LoRAConfig(rank=4, alpha=16.0, target_modules=("v_proj",))
TRAINING = TrainingConfig(epochs=2, batch_size=2, learning_rate=3e-3, threads=1, validation=0.2)


def members() -> list[Member]:
    return [
        Member(config=WIDE, training=TRAINING, examples=lessons(10)),
        Member(config=NARROW, training=TRAINING.evolve(epochs=4, learning_rate=1e-2), examples=lessons(20)[10:]),
        Member(
            config=WIDE,
            training=TRAINING.evolve(batch_size=1, gradient_accumulation=3, seed=7),
            examples=lessons(8),
            system="You know birds.",
        ),
        Member(
            config=NARROW,
            training=TRAINING.evolve(epochs=20, learning_rate=5e-2, schedule="constant", patience=2, evaluate_every=1),
            examples=lessons(8),
            validation=lessons(40)[30:],
        ),
        Member(
            config=WIDE.evolve(rank=16),
            training=TRAINING.evolve(epochs=20, weight_decay=0.1, patience=1, min_improvement=9.0, evaluate_every=3),
            examples=lessons(8),
            validation=lessons(40)[30:],
        ),
    ]


def alone(base: Base, member: Member) -> loop.Trained:
    trained = loop.train(base, member.config, member.training, member.examples, member.validation, system=member.system)
    trained.adapter.detach()
    return trained


def weights(outcome: MemberResult) -> dict[str, torch.Tensor]:
    assert isinstance(outcome, loop.Trained), outcome
    return dict(outcome.adapter.weights().tensors)


def test_each_result_equals_training_it_alone(tiny_bases: Base) -> None:
    """In float32: other ranks, rates, masks, systems and accumulations, two that stop early at different steps."""
    together = train_group(tiny_bases, members())
    for outcome in together:
        assert isinstance(outcome, loop.Trained)
        outcome.adapter.detach()
    ends, early = set(), set()
    for outcome, member in zip(together, members(), strict=True):
        single = alone(tiny_bases, member)
        assert isinstance(outcome, loop.Trained)
        found, expected = outcome.report, single.report
        assert (found.steps, found.best_step, found.stopped_early) == (
            expected.steps,
            expected.best_step,
            expected.stopped_early,
        )
        assert found.after is not None
        assert expected.after is not None
        assert found.after.loss == pytest.approx(expected.after.loss, rel=1e-5)
        ends.add(found.steps)
        early |= {found.steps} if found.stopped_early else set()
        for name, tensor in weights(single).items():
            error = (weights(outcome)[name] - tensor).norm() / tensor.norm()
            assert error < 1e-4, f"{name} is off by {error:.1e}"
    assert len(ends) > 3
    assert len(early) == 2


def test_every_member_is_told_before_the_first_step_how_long_it_will_take(tiny_base: Base) -> None:
    kinds: list[str] = []
    first, longer, *_ = members()
    outcomes = train_group(tiny_base, [replace(first, report=lambda event: kinds.append(event.type)), longer])
    assert kinds.index("report") < kinds.index("progress")
    short, long = (outcome.report.data.seconds for outcome in outcomes if isinstance(outcome, loop.Trained))
    assert short is not None
    assert long is not None
    assert 0 < short < long


def test_lineage_says_that_bytes_may_differ(tiny_base: Base) -> None:
    (first, *_) = train_group(tiny_base, members()[:2])
    assert isinstance(first, loop.Trained)
    assert first.report.environment["members"] == 2


def test_a_member_that_stops_or_fails_leaves_the_others_as_they_are(tiny_base: Base, tmp_path: Path) -> None:
    good = members()[0]
    broken = Member(config=LoRAConfig(target_modules=("nothing",)), training=TRAINING, examples=lessons(4))
    answers = iter([None] * 3)
    stopped = Member(
        config=NARROW,
        training=TRAINING.evolve(validation=0),
        examples=lessons(10),
        workdir=tmp_path,
        should_stop=lambda: next(answers, "hand_back"),
    )
    outcomes = train_group(tiny_base, [broken, good, stopped])
    assert isinstance(outcomes[0], errors.FinchError)
    assert isinstance(outcomes[2], Interrupted)
    assert list(tmp_path.glob("step-*"))
    assert isinstance(outcomes[1], loop.Trained)
    outcomes[1].adapter.detach()
    single = weights(alone(tiny_base, good))
    assert all(torch.allclose(weights(outcomes[1])[name], single[name], atol=1e-3) for name in single)
    assert not any("lora" in name for name, _ in tiny_base.model.named_parameters())


def test_a_member_whose_loss_explodes_is_taken_out(tiny_base: Base) -> None:
    def poison() -> None:
        with torch.no_grad():
            for name, parameter in tiny_base.model.named_parameters():
                if ".member-1." in name:
                    parameter.fill_(torch.nan)

    bad = Member(config=NARROW, training=TRAINING.evolve(validation=0), examples=lessons(10), should_stop=poison)
    good = Member(config=NARROW, training=TRAINING, examples=lessons(12))  # their factors are stacked
    outcomes = train_group(tiny_base, [good, bad])
    assert isinstance(outcomes[0], loop.Trained)
    assert isinstance(outcomes[1], errors.Diverged)
    outcomes[0].adapter.detach()
    single = weights(alone(tiny_base, good))
    assert all(torch.allclose(weights(outcomes[0])[name], single[name], atol=1e-3) for name in single)


def test_a_gang_resumes_from_its_members_checkpoints(tiny_base: Base, tmp_path: Path) -> None:
    def some(**options: Any) -> list[Member]:
        return [
            Member(config=WIDE, training=TRAINING, examples=lessons(10 + n), workdir=tmp_path / str(n), **options)
            for n in range(2)
        ]

    answers = iter([None] * 8)
    stopped = train_group(tiny_base, some(should_stop=lambda: next(answers, "hand_back")))
    assert all(isinstance(outcome, Interrupted) for outcome in stopped)
    resumed = train_group(tiny_base, some())
    assert all(list((tmp_path / str(n)).glob("step-*")) for n in range(2))
    for outcome in resumed:
        assert isinstance(outcome, loop.Trained)
        outcome.adapter.detach()
    for outcome, n in zip(resumed, range(2), strict=True):
        single = weights(alone(tiny_base, Member(config=WIDE, training=TRAINING, examples=lessons(10 + n))))
        assert all(torch.allclose(weights(outcome)[name], single[name], atol=1e-3) for name in single)


def test_who_cannot_join_is_named(tiny_base: Base) -> None:
    recomputing = Member(
        config=WIDE, training=TRAINING.evolve(gradient_checkpointing=True, threads=2), examples=lessons(4)
    )
    for config in (LoRAConfig(use_dora=True), LoRAConfig(rank="auto"), LoRAConfig(init="eva")):
        assert not can_join(tiny_base, config, TRAINING)
    with pytest.raises(errors.InvalidSpec) as caught:
        train_group(tiny_base, [members()[0], recomputing])
    assert [problem.where for problem in caught.value.problems] == ["member 1", "threads"]
    attach(tiny_base, WIDE.evolve(use_dora=True))
    assert not can_join(tiny_base, WIDE, TRAINING)
