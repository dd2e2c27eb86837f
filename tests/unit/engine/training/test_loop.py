"""Training loop: what is learned and reported, and what ends a training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import ARCHITECTURES, save_model
from support.training import lessons, started
from torch.utils._python_dispatch import TorchDispatchMode

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.packed_layer import AdapterBatch
from finch_hub.engine.decoder.padded import PaddedDecoder
from finch_hub.engine.training import loop
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.engine.training.optimizer import FlatAdamW
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.engine.training.resume_state import BatchTokens
from finch_hub.specs.events import NewEvent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def test_train_lowers_the_held_out_loss_on_every_architecture(tiny_bases: Base) -> None:
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


def test_trained_adapter_has_the_reported_loss_and_owns_its_memory(tiny_base: Base) -> None:
    from finch_hub.engine.decoder import evaluation

    held_out = lessons(50)[40:]
    trained = loop.train(tiny_base, LORA, QUICK, lessons(30), held_out)
    again = evaluation.measure(tiny_base, tokenize_all(held_out, tiny_base.tokenizer, max_length=512))
    assert trained.report.after is not None
    # Equal up to rounding: the training may multiply prepared weights, by other kernels.
    assert trained.report.after.loss == pytest.approx(again.loss, rel=1e-5)
    assert trained.report.after.example_losses == pytest.approx(again.example_losses, rel=1e-4)
    assert (trained.report.after.tokens, trained.report.after.accuracy) == (again.tokens, again.accuracy)
    pointers = {p.untyped_storage().data_ptr() for p in trained.adapter.parameters().values()}
    assert len(pointers) == len(trained.adapter.parameters())
    assert all(p.grad is None for p in trained.adapter.parameters().values())


def test_equal_seeds_give_equal_bytes_and_different_seeds_do_not(tiny_base: Base) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed())  # any state of torch's own generator
        config = LORA.evolve(dropout=0.2)
        trained = loop.train(tiny_base, config, QUICK.evolve(seed=seed, validation=0), lessons(12))
        trained.adapter.detach()
        return dict(trained.adapter.weights().tensors)

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


class SmallMemoryDecoder(PackedDecoder):
    """Decoder that runs out of memory above a number of tokens."""

    room = 60

    def hidden_states_of(self, parts: Sequence[AdapterBatch]) -> list[torch.Tensor]:
        if sum(part.batch.tokens for part in parts) > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().hidden_states_of(parts)


def test_step_out_of_memory_is_repeated_in_smaller_micro_batches_with_the_same_gradient(tiny_base: Base) -> None:
    found = []
    events: list[NewEvent] = []
    used: BatchTokens | None = None
    for decoder_type in (PackedDecoder, SmallMemoryDecoder, PackedDecoder):
        adapter = AttachableAdapter(LORA, tiny_base)
        running = started(tiny_base, QUICK.evolve(batch_size=12, validation=0), adapter, batch_tokens=used)
        running.reporter = ProgressReporter(events.append, tiny_base.device)
        loop.take_step(decoder_type(tiny_base.model), [running])
        used = running.finish().environment["batch_tokens"]
        found.append(adapter.weights().tensors)
        running.close()
        adapter.detach()
    assert any("out of memory" in event.message for event in events)
    for name, tensor in found[0].items():
        assert torch.allclose(found[1][name], tensor, atol=2e-4), name
        assert torch.equal(found[1][name], found[2][name]), "the reported bounds give the same bytes again"


def test_out_of_memory_on_a_single_example_fails_the_training(tiny_base: Base) -> None:
    decoder = SmallMemoryDecoder(tiny_base.model)
    decoder.room = 5
    adapter = AttachableAdapter(LORA, tiny_base)
    with pytest.raises(errors.TrainingFailed, match="a single example"):
        loop.take_step(decoder, [started(tiny_base, QUICK, adapter)])


def test_early_stopping_ends_training_and_restores_the_best_adapter(tiny_base: Base) -> None:
    """Train with a learning rate that is too high: the loss falls, then rises."""
    training = QUICK.evolve(epochs=30, learning_rate=5e-2, schedule="constant", patience=2, evaluate_every=2)
    events: list[NewEvent] = []
    held_out = lessons(50)[40:]
    trained = loop.train(tiny_base, LORA, training, lessons(12), held_out, report=events.append)
    losses = {e.data["step"]: e.data["valid_loss"] for e in events if e.type == "metrics"}
    report = trained.report
    assert report.stopped_early
    assert report.after is not None
    assert report.best_step is not None
    assert report.best_step == min((step for step in losses if step), key=lambda step: losses[step])
    assert report.after.loss == losses[report.best_step] < losses[report.steps]
    assert report.steps == report.best_step + 2 * 2


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(tiny_base: Base, tmp_path: Path) -> None:
    training = QUICK.evolve(checkpoint_every=1, validation=0, epochs=4)
    adapter = AttachableAdapter(LORA, tiny_base)
    steps = 0

    def poison() -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            with torch.no_grad():
                next(iter(adapter.parameters().values())).fill_(torch.nan)

    with pytest.raises(errors.Diverged, match=r"step 4: .* not finite .*the last good checkpoint is .*step-00000003"):
        loop.train(tiny_base, LORA, training, lessons(12), workdir=tmp_path, should_stop=poison, adapter=adapter)


class DeviceWaitCounter(TorchDispatchMode):
    """Counter of operations that wait for a device, because the host reads a number or a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            self.counts[str(function.overloadpacket)] += 1
        return function(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device_between_reports(tiny_bases: Base) -> None:
    """Count one wait a step: on a CPU, the optimizer reads the norm."""
    running = started(tiny_bases, QUICK.evolve(epochs=5, share_prefix=False), AttachableAdapter(LORA, tiny_bases))
    decoder = PaddedDecoder(tiny_bases.model)
    loop.take_step(decoder, [running])
    with DeviceWaitCounter() as counter:
        for _ in range(3):
            running.reporter._last = time.monotonic() + 3600
            loop.take_step(decoder, [running])
    running.close()
    assert counter.counts == {"aten._local_scalar_dense": 3}


def untimed(report: TrainingReport) -> TrainingReport:
    return report.evolve(seconds=0.0, data=report.data.evolve(seconds=None))


def stopping_after(calls: int, kind: str = "hand_back") -> Callable[[], Any]:
    """Return a function that requests a stop after `calls` calls."""
    answers = iter([None] * calls)
    return lambda: next(answers, kind)


def test_cancel_and_hand_back_end_training_between_steps(tiny_base: Base, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "kind", ["lora", "auto", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dora", "eva"))]
)
def test_a_handed_back_training_resumes_to_the_same_bytes(kind: str, tiny_base: Base, tmp_path: Path) -> None:
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
        assert resumed.curve == whole.curve
        assert resumed.curve.steps == tuple(range(1, whole.report.steps + 1))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("rows", "data"),
        ("held-out rows", "data"),
        ("learned turns", "data"),
        ("learning rate", "specification"),
        ("scale", "specification"),
        ("base", "base"),
    ],
)
def test_resume_refuses_a_different_training_and_names_the_change(
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
        case "learned turns":
            question, answer, *rest = talk.messages
            work["examples"] = (*most, Example(messages=(question, answer.evolve(learn=False), *rest)))
        case "learning rate":
            work["training"] = work["training"].evolve(learning_rate=1e-3)
        case "scale":
            work["config"] = LORA.evolve(alpha=4.0)
        case "base":
            work["base"] = replace(tiny_base, fingerprint="0" * 64)
    with pytest.raises(errors.InvalidCheckpoint, match=rf"a different training: [^(]*{named}"):
        loop.train(**work)
    assert list(tmp_path.glob("step-*"))
    events: list[NewEvent] = []
    trained = loop.train(**work, owns_workdir=True, report=events.append)
    trained.adapter.detach()
    assert trained.report.environment.get("continued") is None
    warned = [event.message for event in events if event.level == "warn"]
    assert [text for text in warned if text.startswith("starting from the beginning: ") and named in text]


def test_training_goes_on_with_another_number_of_threads_and_says_so(tiny_base: Base, tmp_path: Path) -> None:
    """As on another machine, or after an update of a library: the mathematics is the same, the rounding may differ."""
    training = QUICK.evolve(checkpoint_every=1, threads=1)
    answers = iter([None] * 3 + ["hand_back"] * 9)
    with pytest.raises(Interrupted):
        loop.train(
            tiny_base,
            LORA,
            training,
            lessons(12),
            workdir=tmp_path,
            should_stop=lambda: next(answers),  # type: ignore[arg-type]
        )
    events: list[NewEvent] = []
    work = (tiny_base, LORA, training.evolve(threads=2), lessons(12))
    trained = loop.train(*work, workdir=tmp_path, report=events.append)
    trained.adapter.detach()
    assert any(event.message.startswith("resumed after step ") for event in events)
    (continued,) = trained.report.environment["continued"]
    assert continued.endswith(": threads 1 -> 2")
    assert any("threads 1 -> 2" in event.message for event in events if event.level == "warn")
    whole = loop.train(*work)
    whole.adapter.detach()
    assert trained.report.steps == whole.report.steps
    assert "continued" not in whole.report.environment
    for name, tensor in whole.adapter.weights().tensors.items():
        torch.testing.assert_close(trained.adapter.weights().tensors[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["parameters.0", "exp_avg.0"])
def test_training_starts_again_if_another_version_wrote_the_state_of_the_optimizer(
    name: str, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = QUICK.evolve(validation=0, checkpoint_every=1)
    with monkeypatch.context() as earlier:
        write = FlatAdamW.state_dict
        earlier.setattr(
            FlatAdamW,
            "state_dict",
            lambda self: {("other.0" if key == name else key): tensor for key, tensor in write(self).items()},
        )
        whole = loop.train(tiny_base, LORA, training, lessons(12), workdir=tmp_path)
        whole.adapter.detach()
    events: list[NewEvent] = []
    again = loop.train(tiny_base, LORA, training, lessons(12), workdir=tmp_path, report=events.append)
    again.adapter.detach()
    assert any("starting from the beginning: the state of the optimizer" in event.message for event in events)
    assert again.report.steps == whole.report.steps
    for path, tensor in whole.adapter.weights().tensors.items():
        assert torch.equal(again.adapter.weights().tensors[path], tensor)


def test_training_with_only_damaged_checkpoints_warns_and_starts_again(tiny_base: Base, tmp_path: Path) -> None:
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
    assert all("skipped" in message for message in warned)
    assert again.report.steps == whole.report.steps
    for name, tensor in whole.adapter.weights().tensors.items():
        assert torch.equal(again.adapter.weights().tensors[name], tensor)


def test_validation_examples_that_are_trained_on_are_warned_of(tiny_base: Base) -> None:
    events: list[NewEvent] = []
    rows = lessons(12)
    for validation in (rows[:4] + lessons(16)[12:], lessons(16)[12:]):
        trained = loop.train(tiny_base, LORA, QUICK, rows, validation, report=events.append)
        trained.adapter.detach()
    warned = [event.message for event in events if event.level == "warn" and "trained on" in event.message]
    assert warned == ["4 of 8 validation examples are trained on too, so the held-out loss is better than on new data"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_with_more_embeddings_than_tokens_is_trained(tied: bool, tmp_path: Path) -> None:
    """Resize the embeddings, as many published models do for a multiple of 64."""
    architecture = next(a for a in ARCHITECTURES if a.family == "llama" and a.tied == tied)
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


def test_a_float16_base_is_trained_with_a_float32_adapter(tiny_base: Base) -> None:
    base = replace(tiny_base, model=tiny_base.model.half(), dtype=torch.float16)
    training = TrainingConfig(epochs=4, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2, packing=False)
    trained = loop.train(base, LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear"), training, lessons(24))
    assert trained.report.before is not None
    assert trained.report.after is not None
    assert trained.report.after.loss < 0.9 * trained.report.before.loss
    assert trained.report.environment["dtype"] == "float16"
    assert {parameter.dtype for parameter in trained.adapter.parameters().values()} == {torch.float32}


def test_contradictory_settings_are_refused_before_the_first_step(tiny_base: Base) -> None:
    training = QUICK.evolve(validation=0, patience=1, warmup_steps=1000, max_steps=1)
    with pytest.raises(errors.InvalidSpec) as caught:
        loop.train(tiny_base, LORA, training, lessons(12))
    assert [problem.where for problem in caught.value.problems] == ["patience", "warmup_steps"]


def test_training_ends_after_max_steps(tiny_base: Base) -> None:
    trained = loop.train(tiny_base, LORA, QUICK.evolve(epochs=9, max_steps=4), lessons(12))
    assert trained.report.steps == trained.report.data.steps == 4
