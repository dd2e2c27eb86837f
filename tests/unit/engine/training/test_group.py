"""Training groups: each result is the same as alone, whatever happens to the other members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import ARCHITECTURES
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training import loop
from finch_hub.engine.training.group import Member, MemberResult, can_join, train_group
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

WIDE = LoRAConfig(rank=8, alpha=8.0, target_modules="all-linear", dropout=0.1)
NARROW = LoRAConfig(rank=4, alpha=16.0, target_modules=("v_proj",))
# Of the architectures that `tiny_bases` has, these two differ in everything.
BASES = [
    pytest.param(one, id=one.name, marks=() if one.name in ("llama-untied", "qwen3-tied") else pytest.mark.slow)
    for one in ARCHITECTURES
]
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


def weights(result: MemberResult) -> dict[str, torch.Tensor]:
    assert isinstance(result, loop.Trained), result
    return dict(result.adapter.weights().tensors)


@pytest.mark.parametrize("tiny_folders", BASES, indirect=True)
def test_each_member_has_the_same_result_as_alone(tiny_bases: Base) -> None:
    """Train members of different ranks, rates, masks, systems and accumulations; two stop early."""
    together = train_group(tiny_bases, members())
    for result in together:
        assert isinstance(result, loop.Trained)
        result.adapter.detach()
    ends, early = set(), set()
    for result, member in zip(together, members(), strict=True):
        single = alone(tiny_bases, member)
        assert isinstance(result, loop.Trained)
        found, expected = result.report, single.report
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
            error = (weights(result)[name] - tensor).norm() / tensor.norm()
            assert error < 1e-4, f"{name} is off by {error:.1e}"
    assert len(ends) > 3
    assert len(early) == 2


def test_every_member_reports_its_duration_before_the_first_step(tiny_base: Base) -> None:
    kinds: list[str] = []
    first, longer, *_ = members()
    results = train_group(tiny_base, [replace(first, report=lambda event: kinds.append(event.type)), longer])
    assert kinds.index("report") < kinds.index("progress")
    short, long = (result.report.data.seconds for result in results if isinstance(result, loop.Trained))
    assert short is not None
    assert long is not None
    assert 0 < short < long


def test_the_report_has_the_number_of_members(tiny_base: Base) -> None:
    (first, *_) = train_group(tiny_base, members()[:2])
    assert isinstance(first, loop.Trained)
    assert first.report.environment["members"] == 2


def test_a_member_that_stops_or_fails_does_not_change_the_others(tiny_base: Base, tmp_path: Path) -> None:
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
    results = train_group(tiny_base, [broken, good, stopped])
    assert isinstance(results[0], errors.FinchError)
    assert isinstance(results[2], Interrupted)
    assert list(tmp_path.glob("step-*"))
    assert isinstance(results[1], loop.Trained)
    results[1].adapter.detach()
    single = weights(alone(tiny_base, good))
    assert all(torch.allclose(weights(results[1])[name], single[name], atol=1e-3) for name in single)
    assert not any("lora" in name for name, _ in tiny_base.model.named_parameters())


def test_a_member_that_diverges_leaves_the_group(tiny_base: Base) -> None:
    def poison() -> None:
        with torch.no_grad():
            for name, parameter in tiny_base.model.named_parameters():
                if ".member-1." in name:
                    parameter.fill_(torch.nan)

    bad = Member(config=NARROW, training=TRAINING.evolve(validation=0), examples=lessons(10), should_stop=poison)
    good = Member(config=NARROW, training=TRAINING, examples=lessons(12))  # their factors are stacked
    results = train_group(tiny_base, [good, bad])
    assert isinstance(results[0], loop.Trained)
    assert isinstance(results[1], errors.Diverged)
    results[0].adapter.detach()
    single = weights(alone(tiny_base, good))
    assert all(torch.allclose(weights(results[0])[name], single[name], atol=1e-3) for name in single)


def test_a_group_resumes_from_the_checkpoints_of_its_members(tiny_base: Base, tmp_path: Path) -> None:
    def checkpointed_members(**options: Any) -> list[Member]:
        return [
            Member(config=WIDE, training=TRAINING, examples=lessons(10 + n), workdir=tmp_path / str(n), **options)
            for n in range(2)
        ]

    answers = iter([None] * 8)
    stopped = train_group(tiny_base, checkpointed_members(should_stop=lambda: next(answers, "hand_back")))
    assert all(isinstance(result, Interrupted) for result in stopped)
    resumed = train_group(tiny_base, checkpointed_members())
    assert all(list((tmp_path / str(n)).glob("step-*")) for n in range(2))
    for result in resumed:
        assert isinstance(result, loop.Trained)
        result.adapter.detach()
    for result, n in zip(resumed, range(2), strict=True):
        single = weights(alone(tiny_base, Member(config=WIDE, training=TRAINING, examples=lessons(10 + n))))
        assert all(torch.allclose(weights(result)[name], single[name], atol=1e-3) for name in single)


def test_members_that_cannot_join_are_refused_by_number(tiny_base: Base) -> None:
    recomputing = Member(
        config=WIDE, training=TRAINING.evolve(gradient_checkpointing=True, threads=2), examples=lessons(4)
    )
    head = LoRAConfig(target_modules=("q_proj", "lm_head"))  # its logits are the model's own, computed by one thread
    for config in (LoRAConfig(use_dora=True), LoRAConfig(rank="auto"), LoRAConfig(init="eva"), head):
        assert not can_join(tiny_base, config, TRAINING)
    with pytest.raises(errors.InvalidSpec) as caught:
        train_group(tiny_base, [members()[0], recomputing])
    assert [problem.where for problem in caught.value.problems] == ["member 1", "threads"]
    AttachableAdapter(WIDE.evolve(use_dora=True), tiny_base)
    assert not can_join(tiny_base, WIDE, TRAINING)
