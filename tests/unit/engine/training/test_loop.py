"""The loop as its callers see it: what is learnt, what is reported, what stops it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.models import ARCHITECTURES, save_model
from support.training import adapted, assert_close, gradients, lessons, reference, started
from torch.utils._python_dispatch import TorchDispatchMode

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import attach
from finch_hub.engine.bases.loading import Base, load_base
from finch_hub.engine.data import batches
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.decoder import PaddedDecoder, decoder_of
from finch_hub.engine.decoder.packed import PackedDecoder, Part
from finch_hub.engine.training import Interrupted, checkpoint, loop, progress
from finch_hub.engine.training.gradients import accumulate
from finch_hub.engine.training.progress import Progress
from finch_hub.engine.training.state import BatchTokens
from finch_hub.specs.events import NewEvent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import DataReport, TrainingReport
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
DATA = DataReport(examples=12, tokens=12, label_tokens=12, length_mean=1.0, length_max=1, length_p95=1)
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def test_training_lowers_the_held_out_loss_on_every_architecture(tiny_bases: Base) -> None:
    trained = loop.train(tiny_bases, LORA, QUICK.evolve(epochs=4), lessons(40))
    report = trained.report
    assert report.before is not None
    assert report.after is not None
    assert report.after.loss < 0.8 * report.before.loss
    assert report.steps == 4 * 8
    assert report.data.examples == 32
    assert report.before.examples == 8
    assert trained.adapter.is_enabled
    assert not tiny_bases.model.training


def test_what_remains_is_measured_as_reported_and_holds_memory_of_its_own(tiny_base: Base) -> None:
    from finch_hub.engine.decoder import evaluation

    held_out = lessons(50)[40:]
    trained = loop.train(tiny_base, LORA, QUICK, lessons(30), held_out)
    again = evaluation.measure(tiny_base, tokenize_all(held_out, tiny_base.tokenizer, max_length=512))
    assert trained.report.after == again
    pointers = {p.untyped_storage().data_ptr() for p in trained.adapter.parameters().values()}
    assert len(pointers) == len(trained.adapter.parameters())
    assert all(p.grad is None for p in trained.adapter.parameters().values())


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_bytes(tiny_base: Base) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed())  # whatever state torch's own generator is in
        config = LORA.evolve(dropout=0.2)
        trained = loop.train(tiny_base, config, QUICK.evolve(seed=seed, validation=0), lessons(12))
        trained.adapter.detach()
        return dict(trained.adapter.weights().tensors)

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("size", "accumulation"), [(12, 1), (3, 4), (4, 3), (1, 12)])
def test_accumulated_micro_batches_of_unequal_lengths_give_the_gradient_of_one_batch(
    size: int, accumulation: int, tiny_bases: Base
) -> None:
    """Held against the plain way: one example at a time, and the mean over all label tokens of the step."""
    adapter = adapted(tiny_bases)
    training = QUICK.evolve(batch_size=size, gradient_accumulation=accumulation, validation=0)
    running = started(tiny_bases, training, adapter)
    (loss,) = accumulate(decoder_of(tiny_bases), [running], [running.micro_batches()])
    found = gradients(adapter)
    expected_loss, expected = reference(tiny_bases, adapter, running._train_set)
    assert float(loss) == pytest.approx(expected_loss, rel=2e-5)
    assert_close(found, expected, tolerance=2e-5)


class Cramped(PackedDecoder):
    """A decoder on a device that has no room for more than so many tokens."""

    room = 60

    def hidden_of(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        if sum(part.batch.tokens for part in parts) > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().hidden_of(parts)


def test_an_out_of_memory_step_is_repeated_in_smaller_micro_batches_with_the_same_gradient(tiny_base: Base) -> None:
    found = []
    events: list[NewEvent] = []
    used: BatchTokens | None = None
    for decoder in (PackedDecoder(tiny_base.model), Cramped(tiny_base.model), PackedDecoder(tiny_base.model)):
        adapter = attach(tiny_base, LORA)
        running = started(tiny_base, QUICK.evolve(batch_size=12, validation=0), adapter, batch_tokens=used)
        running.progress = Progress(events.append, tiny_base.device)
        loop.step(decoder, [running])
        used = running.finish(DATA).environment["batch_tokens"]
        found.append(adapter.weights().tensors)
        running.close()
        adapter.detach()
    assert any("out of memory" in event.message for event in events)
    for name, tensor in found[0].items():
        assert torch.allclose(found[1][name], tensor, atol=2e-4), name
        assert torch.equal(found[1][name], found[2][name]), "what was used is reported, and gives the same bytes again"


def test_the_micro_batches_that_were_used_are_reported_by_step(tiny_base: Base) -> None:
    running = started(tiny_base, QUICK.evolve(batch_size=12, validation=0, epochs=3), attach(tiny_base, LORA))
    for limit in (None, 200, 100):
        if limit is not None:
            running.limit(limit)
        running.update(torch.tensor(1.0), seconds=0.1)
    running.close()
    used = running.finish(DATA).environment["batch_tokens"]
    assert used == ((0, None), (1, 200), (2, 100))
    again = started(
        tiny_base,
        QUICK.evolve(batch_size=12, validation=0, epochs=3),
        attach(tiny_base, LORA, name="a"),
        batch_tokens=used,
    )
    sizes = []
    for _ in range(3):
        sizes.append([len(rows) for rows in again.micro_batches()])
        again.update(torch.tensor(1.0), seconds=0.1)
    again.close()
    assert sizes[0] == [12]
    assert 1 < len(sizes[1]) < len(sizes[2])


def test_no_room_for_a_single_example_is_said(tiny_base: Base) -> None:
    decoder = Cramped(tiny_base.model)
    decoder.room = 5
    adapter = attach(tiny_base, LORA)
    with pytest.raises(errors.TrainingFailed, match="one example"):
        loop.step(decoder, [started(tiny_base, QUICK, adapter)])


def test_early_stopping_ends_and_the_best_adapter_is_restored(tiny_base: Base) -> None:
    """A learning rate that overshoots: it gets better, then worse."""
    training = QUICK.evolve(epochs=30, learning_rate=5e-2, schedule="constant", patience=2, evaluate_every=2)
    events: list[NewEvent] = []
    held_out = lessons(50)[40:]
    trained = loop.train(tiny_base, LORA, training, lessons(12), held_out, report=events.append)
    losses = {e.data["step"]: e.data["valid_loss"] for e in events if e.type == "metrics"}
    report = trained.report
    assert report.stopped_early
    assert report.after is not None
    assert report.best_step == min((step for step in losses if step), key=lambda step: losses[step])
    assert report.after.loss == losses[report.best_step] < losses[report.steps]
    assert report.steps == report.best_step + 2 * 2


def test_a_share_of_an_epoch_is_an_evaluation_interval(tiny_base: Base) -> None:
    events: list[NewEvent] = []
    training = QUICK.evolve(epochs=1, evaluate_every=0.5, batch_size=2)
    loop.train(tiny_base, LORA, training, lessons(16), lessons(20)[16:], report=events.append)
    assert [e.data["step"] for e in events if e.type == "metrics"] == [0, 4, 8]


def test_a_loss_that_is_no_longer_finite_names_the_step_and_the_last_good_checkpoint(
    tiny_base: Base, tmp_path: Path
) -> None:
    training = QUICK.evolve(checkpoint_every=1, validation=0, epochs=4)
    adapter = attach(tiny_base, LORA)
    steps = 0

    def poison() -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            with torch.no_grad():
                next(iter(adapter.parameters().values())).fill_(torch.nan)

    with pytest.raises(errors.Diverged, match=r"step 4; the last good checkpoint is .*step-00000003"):
        loop.train(tiny_base, LORA, training, lessons(12), workdir=tmp_path, should_stop=poison, adapter=adapter)


def test_a_loss_that_rises_above_guessing_is_found_out_and_one_that_began_there_is_not(tiny_base: Base) -> None:
    for losses in ([12.0, 11.0, 12.5], [2.0, 3.0, 2.5]):
        adapter = attach(tiny_base, LORA)
        running = started(tiny_base, QUICK.evolve(epochs=9), adapter)
        for loss in (*losses, 100.0, 100.0):
            running.progress._last = time.monotonic() + 3600  # nothing is to be said
            running.update(torch.tensor(loss), seconds=0.1)
        with pytest.raises(errors.Diverged, match="worse than guessing at step 4"):
            running._save()
        running.close()
        adapter.detach()


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device, on which the host asks it for a number or a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            self.counts[str(function.overloadpacket)] += 1
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device_unless_there_is_something_to_say(tiny_bases: Base) -> None:
    """As on CUDA, but for the optimiser's look at the norm, which is for CPUs alone."""
    running = started(tiny_bases, QUICK.evolve(epochs=5, share_prefix=False), attach(tiny_bases, LORA))
    decoder = PaddedDecoder(tiny_bases.model)
    loop.step(decoder, [running])
    with Waits() as waits:
        for _ in range(3):
            running.progress._last = time.monotonic() + 3600
            loop.step(decoder, [running])
    running.close()
    assert waits.counts == {"aten._local_scalar_dense": 3}


def untimed(report: TrainingReport) -> TrainingReport:
    return report.evolve(seconds=0.0, data=report.data.evolve(seconds=None))


def stopping_after(calls: int, kind: str = "hand_back") -> Callable[[], Any]:
    """Return what says stop when it is asked for the last of so many times."""
    answers = iter([None] * calls)
    return lambda: next(answers, kind)


def test_cancel_and_hand_back_are_honoured_between_steps(tiny_base: Base, tmp_path: Path) -> None:
    for kind, kept in (("cancel", 0), ("hand_back", 1)):
        with pytest.raises(Interrupted) as caught:
            loop.train(
                tiny_base,
                LORA,
                QUICK.evolve(validation=0),
                lessons(12),
                workdir=tmp_path / kind,
                should_stop=stopping_after(4, kind),
            )
        assert caught.value.kind == kind
        assert len(list((tmp_path / kind).glob("step-*"))) == kept
    assert not any("lora" in name for name, _ in tiny_base.model.named_parameters())


@pytest.mark.parametrize("kind", ["lora", "dora", "eva", "auto"])
def test_a_handed_back_training_ends_with_the_same_bytes(kind: str, tiny_base: Base, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "lora": {"dropout": 0.1, "use_rslora": True},
        "dora": {"dropout": 0.1, "use_dora": True},
        "eva": {"init": "eva"},
        "auto": {"rank": "auto"},
    }
    config = LORA.evolve(**changes[kind])
    whole = loop.train(tiny_base, config, QUICK, lessons(48))
    whole.adapter.detach()
    for calls in (3, 12):  # between steps, and between the batches of an evaluation
        workdir = tmp_path / str(calls)
        with pytest.raises(Interrupted):
            loop.train(tiny_base, config, QUICK, lessons(48), workdir=workdir, should_stop=stopping_after(calls))
        resumed = loop.train(tiny_base, config, QUICK, lessons(48), workdir=workdir)
        resumed.adapter.detach()
        for name, tensor in whole.adapter.weights().tensors.items():
            assert torch.equal(resumed.adapter.weights().tensors[name], tensor)
        assert untimed(resumed.report) == untimed(whole.report)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("rows", "data"),
        ("held-out rows", "data"),
        ("what is learnt", "data"),
        ("learning rate", "specification"),
        ("scale", "specification"),
        ("base", "base"),
        ("threads", "environment"),
    ],
)
def test_a_checkpoint_of_other_work_is_refused_by_what_changed(
    changed: str, named: str, tiny_base: Base, tmp_path: Path
) -> None:
    *most, first, second = lessons(14)
    talk = Example(messages=(*first.messages, *second.messages))
    work: dict[str, Any] = {
        "base": tiny_base,
        "config": LORA,
        "training": QUICK.evolve(checkpoint_every=1),
        "examples": (*most, talk),
        "validation": lessons(20)[16:],
        "workdir": tmp_path,
    }
    loop.train(**work).adapter.detach()
    match changed:
        case "rows":
            work["examples"] = (*most[1:], first, talk)
        case "held-out rows":
            work["validation"] = lessons(21)[17:]
        case "what is learnt":
            question, answer, *rest = talk.messages
            work["examples"] = (*most, Example(messages=(question, answer.evolve(learn=False), *rest)))
        case "learning rate":
            work["training"] = work["training"].evolve(learning_rate=1e-3)
        case "scale":
            work["config"] = LORA.evolve(alpha=4.0)
        case "base":
            work["base"] = replace(tiny_base, fingerprint="0" * 64)
        case "threads":
            work["training"] = work["training"].evolve(threads=2)
    with pytest.raises(errors.InvalidCheckpoint, match=rf"other work: [^;]*{named}"):
        loop.train(**work)
    assert list(tmp_path.glob("step-*"))


def test_where_every_checkpoint_is_damaged_it_is_said_and_training_begins_anew(tiny_base: Base, tmp_path: Path) -> None:
    training = QUICK.evolve(validation=0, checkpoint_every=1)
    whole = loop.train(tiny_base, LORA, training, lessons(12), workdir=tmp_path)
    whole.adapter.detach()
    for kept in tmp_path.glob("step-*"):
        state = kept / "state.json"
        state.write_bytes(state.read_bytes().replace(b'"step": ', b'"step": 1', 1))
    events: list[NewEvent] = []
    again = loop.train(tiny_base, LORA, training, lessons(12), workdir=tmp_path, report=events.append)
    again.adapter.detach()
    warned = [event.message for event in events if event.level == "warn"]
    assert len(warned) == training.keep_checkpoints
    assert all("passed over" in message for message in warned)
    assert again.report.steps == whole.report.steps
    for name, tensor in whole.adapter.weights().tensors.items():
        assert torch.equal(again.adapter.weights().tensors[name], tensor)


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_with_more_embeddings_than_tokens_is_trained_like_any_other(tied: bool, tmp_path: Path) -> None:
    """As after resizing them to a multiple of 64, which many published models do."""
    architecture = next(one for one in ARCHITECTURES if one.family == "llama" and one.tied == tied)
    folder = save_model(architecture, tmp_path / "base")
    resized = load_base(folder, dtype="float32", device="cpu", cache=tmp_path)
    resized.model.resize_token_embeddings(512, mean_resizing=False)
    resized.model.save_pretrained(folder)
    base = load_base(folder, dtype="float32", device="cpu", cache=tmp_path)
    assert base.model.get_input_embeddings().weight.shape[0] == 512 > len(base.tokenizer)
    trained = loop.train(base, LORA, QUICK.evolve(epochs=4), lessons(40))
    assert trained.report.before is not None
    assert trained.report.after is not None
    assert trained.report.after.loss < 0.9 * trained.report.before.loss


def test_settings_that_cannot_work_are_found_before_the_first_step(tiny_base: Base) -> None:
    training = QUICK.evolve(validation=0, patience=1, warmup_steps=1000, max_steps=1)
    with pytest.raises(errors.InvalidSpec) as caught:
        loop.train(tiny_base, LORA, training, lessons(12))
    assert [problem.where for problem in caught.value.problems] == ["patience", "warmup_steps"]


def test_it_ends_after_the_most_steps_that_are_allowed(tiny_base: Base) -> None:
    trained = loop.train(tiny_base, LORA, QUICK.evolve(epochs=9, max_steps=4), lessons(12))
    assert trained.report.steps == trained.report.data.steps == 4


def test_only_a_decoder_that_pads_gets_its_steps_by_length(tiny_base: Base) -> None:
    training = QUICK.evolve(batch_size=2, validation=0)
    for number, decoder in enumerate((PackedDecoder(tiny_base.model), PaddedDecoder(tiny_base.model))):
        running = started(tiny_base, training, attach(tiny_base, LORA, name=str(number)), decoder=decoder)
        planned = batches.plan_epoch(
            running.lengths, batch_size=2, accumulation=1, seed=0, epoch=0, by_length=decoder.pads
        )
        assert len(set(running.lengths)) > 1
        assert running.rows() == planned[0]


def test_progress_comes_no_oftener_than_four_times_a_second(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    seconds = 100.0

    def a_tenth_later() -> None:
        nonlocal seconds
        seconds = 100.0 + next(clock) / 10

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: seconds))
    events: list[NewEvent] = []
    loop.train(
        tiny_base,
        LORA,
        QUICK.evolve(validation=0),
        lessons(40),
        report=events.append,
        should_stop=a_tenth_later,
    )
    told = [event.data for event in events if event.type == "progress"]
    assert [one["step"] for one in told] == [1, 4, 7, 10, 13, 16, 19, 20]
    assert set(told[-1]) >= {"steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
    assert told[-1]["memory_bytes"] > 0
    assert told[0]["seconds_left"] > 0 == told[-1]["seconds_left"]


def test_the_data_and_what_it_will_cost_are_described_before_the_first_step(tiny_base: Base) -> None:
    events: list[NewEvent] = []
    doubled = (*lessons(11), lessons(1)[0])
    training = QUICK.evolve(max_length=32, epochs=1)
    trained = loop.train(tiny_base, LORA, training, doubled, lessons(2), report=events.append)
    kinds = [event.type for event in events]
    described = next(event.data["report"] for event in events if event.type == "report")
    assert kinds.index("report") < kinds.index("progress")
    assert described == trained.report.data.model_dump(mode="json")
    assert described["examples"] == 12
    assert (described["duplicates"], described["overlap"]) == (1, 2)
    assert described["truncated"] > 0
    assert described["length_max"] == 32
    assert 0 < described["label_tokens"] < described["tokens"]
    assert described["steps"] == trained.report.steps
    assert described["seconds"] > 0


def test_a_checkpoint_is_written_at_the_interval_and_only_the_last_ones_are_kept(
    tiny_base: Base, tmp_path: Path
) -> None:
    training = QUICK.evolve(validation=0, checkpoint_every=2, keep_checkpoints=2)
    loop.train(tiny_base, LORA, training, lessons(24), workdir=tmp_path)
    assert [path.name for path in checkpoint._steps(tmp_path)] == ["step-00000010", "step-00000008"]


def test_no_examples_and_lengths_beyond_the_context_are_refused(tiny_base: Base) -> None:
    with pytest.raises(errors.InvalidDataset, match="no examples"):
        loop.train(tiny_base, LORA, QUICK, ())
    with pytest.raises(errors.InvalidSpec, match=f"max_length.*{tiny_base.context}"):
        loop.train(tiny_base, LORA, QUICK.evolve(max_length=tiny_base.context + 1), lessons(12))
