"""Parts of a step side by side: the same gradients as computed at once, the same bytes whatever the scheduling."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future

import pytest
import torch
from support.training import assert_close, gradients, lessons

from finch_hub.engine.adapters.attachable_adapter import attach
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data import batches
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.decoder.decoder import decoder_of
from finch_hub.engine.numerics import concurrency
from finch_hub.engine.numerics.concurrency import MOST, side_by_side
from finch_hub.engine.training import Interrupted, loop
from finch_hub.engine.training.gradients import accumulate
from finch_hub.engine.training.group import Member, train_gang
from finch_hub.engine.training.progress import Progress
from finch_hub.engine.training.run import Run
from finch_hub.specs.events import silent
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
TRAINING = TrainingConfig(epochs=2, batch_size=6, learning_rate=5e-3, validation=0.2)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests divide what is too small to be worth it."""
    monkeypatch.setattr(batches, "LEAST_TOKENS", 1)
    monkeypatch.setattr(batches, "_SHARED_SPEED", 0.1)


def test_each_task_has_its_share_of_the_threads_and_the_caller_keeps_its_own() -> None:
    torch.set_num_threads(4)
    meeting = threading.Barrier(2, timeout=30)  # so they do run at once

    def task(name: str) -> tuple[str, int]:
        meeting.wait()
        return name, torch.get_num_threads()

    assert side_by_side([lambda: task("a"), lambda: task("b")]) == [("a", 2), ("b", 2)]
    assert torch.get_num_threads() == 4
    assert side_by_side([torch.get_num_threads]) == [4]
    assert side_by_side([torch.get_num_threads], ways=2) == [2]
    assert side_by_side([]) == []


def test_the_first_failure_is_raised_when_all_have_ended() -> None:
    ended = []
    failed = threading.Event()

    def fails() -> None:
        failed.set()
        raise torch.OutOfMemoryError("no room")

    def lasts() -> None:
        assert failed.wait(30)
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        side_by_side([fails, lasts])
    assert ended


def test_who_is_interrupted_leaves_no_task_behind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    waiting, interrupted = threading.Event(), threading.Event()
    main = threading.get_ident()
    wait = concurrency.wait

    def announced_wait(futures: list[Future[None]]) -> None:
        waiting.set()
        wait(futures)

    def interrupt(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def lasts() -> None:
        assert interrupted.wait(30)
        time.sleep(0.1)
        ended.append(True)

    def interrupts() -> None:
        assert waiting.wait(30)
        while not interrupted.wait(0.05):  # a signal just before the main thread blocks does not wake it
            signal.pthread_kill(main, signal.SIGINT)
        lasts()

    # A shell that starts this in the background lets it ignore the signal.
    before = signal.signal(signal.SIGINT, interrupt)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(concurrency, "wait", announced_wait)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([lasts, interrupts])
    assert ended == [True, True]


def test_parts_have_the_loss_and_the_gradient_of_the_whole(tiny_bases: Base) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        adapter = attach(tiny_bases, LORA)
        data = loop.prepare(
            tiny_bases, TRAINING, lessons(6), (), system="You know birds.", progress=Progress(silent, tiny_bases.device)
        )
        decoder = decoder_of(tiny_bases)
        run = Run(
            tiny_bases,
            adapter,
            decoder,
            TRAINING.evolve(validation=0),
            data.train_set,
            (),
            workdir=None,
            progress=Progress(silent, tiny_bases.device),
            should_stop=lambda: None,
        )
        assert len(run.parts(0, run.rows())) == threads
        losses = accumulate(decoder, [run], [run.micro_batches()])
        found.append((float(losses[0]), gradients(adapter)))
        run.close()
        adapter.detach()
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        nonzero = {name: tensor for name, tensor in found[0][1].items() if tensor.abs().max() > 0}
        assert_close({name: gradient[name] for name in nonzero}, nonzero, tolerance=2e-5)


@pytest.mark.parametrize("layers", [None, (1,)])
def test_an_interrupted_training_in_parts_ends_with_the_same_bytes(
    layers: tuple[int, ...] | None, tiny_base: Base, tmp_path: object
) -> None:
    """With dropout, whose masks are each part's own, and with frozen states, which parts only look up."""
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


def test_a_gang_in_parts_draws_the_masks_that_each_would_draw_alone(tiny_base: Base) -> None:
    training = TRAINING.evolve(threads=2, batch_size=4)
    members = [
        Member(config=LORA.evolve(dropout=0.3), training=training.evolve(seed=seed), examples=lessons(8 + seed))
        for seed in range(3)
    ]
    together = train_gang(tiny_base, members)
    for outcome in together:
        assert isinstance(outcome, loop.Trained)
        outcome.adapter.detach()
    for outcome, member in zip(together, members, strict=True):
        alone = loop.train(tiny_base, member.config, member.training, member.examples)
        alone.adapter.detach()
        assert isinstance(outcome, loop.Trained)
        for name, tensor in alone.adapter.weights().tensors.items():
            assert torch.allclose(outcome.adapter.weights().tensors[name], tensor, atol=1e-4), name


def test_held_out_loss_does_not_depend_on_how_many_batches_are_computed_at_once(tiny_bases: Base) -> None:
    attach(tiny_bases, LORA)
    examples = tokenize_all(lessons(20), tiny_bases.tokenizer, max_length=512)
    found = []
    for threads in (1, 3, MOST + 1):
        torch.set_num_threads(threads)
        found.append(evaluation.measure(tiny_bases, examples))
    for other in found[1:]:
        assert other.loss == pytest.approx(found[0].loss, rel=1e-5)
        assert other.example_losses == pytest.approx(found[0].example_losses, rel=1e-4)
        assert (other.tokens, other.accuracy) == (found[0].tokens, found[0].accuracy)
