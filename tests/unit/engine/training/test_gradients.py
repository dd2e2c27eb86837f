"""Gradients over micro-batches and parts: equal to those of one batch, whatever the scheduling."""

from __future__ import annotations

import pytest
import torch
from support.training import adapted, assert_close, gradients, lessons, reference, started

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data import batch_plan
from finch_hub.engine.decoder.decoder import choose_decoder
from finch_hub.engine.training import loop
from finch_hub.engine.training.data import prepare_data
from finch_hub.engine.training.gradients import accumulate_gradients
from finch_hub.engine.training.group import Member, train_group
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.engine.training.run import TrainingRun
from finch_hub.specs.events import silent
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
TRAINING = TrainingConfig(epochs=2, batch_size=6, learning_rate=5e-3, validation=0.2)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide small micro-batches too, although it is slower."""
    monkeypatch.setattr(batch_plan, "LEAST_TOKENS", 1)
    monkeypatch.setattr(batch_plan, "_SHARED_SPEED", 0.1)


@pytest.mark.parametrize(("size", "accumulation"), [(12, 1), (3, 4), (4, 3), (1, 12)])
def test_accumulated_gradients_of_unequal_micro_batches_equal_those_of_one_batch(
    size: int, accumulation: int, tiny_bases: Base
) -> None:
    """Compare with one example at a time, and the mean over all label tokens of the step."""
    adapter = adapted(tiny_bases)
    training = TRAINING.evolve(threads=1, batch_size=size, gradient_accumulation=accumulation, validation=0)
    running = started(tiny_bases, training, adapter)
    (loss,) = accumulate_gradients(choose_decoder(tiny_bases), [running], [running.micro_batches()])
    found = gradients(adapter)
    expected_loss, expected = reference(tiny_bases, adapter, running.batches._train_set)
    assert float(loss) == pytest.approx(expected_loss, rel=2e-5)
    assert_close(found, expected, tolerance=2e-5)


def test_parts_have_the_loss_and_gradient_of_the_whole(tiny_bases: Base) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        adapter = AttachableAdapter(LORA, tiny_bases)
        reporter = ProgressReporter(silent, tiny_bases.device)
        data = prepare_data(tiny_bases, TRAINING, lessons(6), (), system="You know birds.", reporter=reporter)
        decoder = choose_decoder(tiny_bases)
        run = TrainingRun(
            tiny_bases,
            adapter,
            decoder,
            TRAINING.evolve(validation=0),
            data,
            workdir=None,
            reporter=reporter,
            should_stop=lambda: None,
        )
        assert len(run.parts(0, run.batches.rows(0))) == threads
        losses = accumulate_gradients(decoder, [run], [run.micro_batches()])
        found.append((float(losses[0]), gradients(adapter)))
        run.close()
        adapter.detach()
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        nonzero = {name: tensor for name, tensor in found[0][1].items() if tensor.abs().max() > 0}
        assert_close({name: gradient[name] for name in nonzero}, nonzero, tolerance=2e-5)


@pytest.mark.parametrize("layers", [None, (1,)])
def test_an_interrupted_training_in_parts_resumes_to_the_same_bytes(
    layers: tuple[int, ...] | None, tiny_base: Base, tmp_path: object
) -> None:
    """Train with dropout, whose masks depend on the part, and with cached states, which parts read."""
    config = LORA.evolve(dropout=0.2, layers_to_transform=layers)
    training = TRAINING.evolve(threads=2, checkpoint_every=1)

    def weights(**options: object) -> dict[str, torch.Tensor]:
        trained = loop.train(tiny_base, config, training, lessons(30), **options)  # type: ignore[arg-type]
        trained.adapter.detach()
        return dict(trained.adapter.weights().tensors)

    whole, again = weights(), weights()
    answers = iter([None] * 5)
    with pytest.raises(Interrupted):
        weights(workdir=tmp_path, should_stop=lambda: next(answers, "hand_back"))
    resumed = weights(workdir=tmp_path)
    for name, tensor in whole.items():
        assert torch.equal(again[name], tensor)
        assert torch.equal(resumed[name], tensor)


def test_a_group_in_parts_draws_the_same_dropout_masks_as_each_member_alone(tiny_base: Base) -> None:
    training = TRAINING.evolve(threads=2, batch_size=4)
    members = [
        Member(config=LORA.evolve(dropout=0.3), training=training.evolve(seed=seed), examples=lessons(8 + seed))
        for seed in range(3)
    ]
    together = train_group(tiny_base, members)
    for outcome in together:
        assert isinstance(outcome, loop.Trained)
        outcome.adapter.detach()
    for outcome, member in zip(together, members, strict=True):
        alone = loop.train(tiny_base, member.config, member.training, member.examples)
        alone.adapter.detach()
        assert isinstance(outcome, loop.Trained)
        for name, tensor in alone.adapter.weights().tensors.items():
            assert torch.allclose(outcome.adapter.weights().tensors[name], tensor, atol=1e-4), name
