"""Training orders whose earlier attempt ran under other conditions. The rest is tested with real workers."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from peft.tuners.lora import LoraLayer
from support.training import lessons

from finch_hub.engine.bases import precision
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data import reading
from finch_hub.specs.evidence import Samples
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, TrainSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import ReadingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.workers import child
from finch_hub.workers.runs import train
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.model_cache import BaseOrder
from finch_hub.workers.runs.train import TrainOrder

TRAINING = TrainingConfig(epochs=1, batch_size=4, threads=1, validation=0, checkpoint_every=1)


@pytest.fixture
def channel(tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    made = Channel(io.BytesIO())
    made.workdir = tmp_path / "work"
    monkeypatch.setattr(made.bases, "load", lambda order, *, say, dtype: tiny_base)
    return made


def order_of(tmp_path: Path, **changes: Any) -> TrainOrder:
    source = BaseModelSource(source="tiny")
    file = tmp_path / "train.jsonl"
    file.write_bytes(reading.dump_examples(lessons(12)))
    lora = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
    spec = TrainSpec(adapter="birds", base=source, train="0" * 64, lora=lora, training=TRAINING.evolve(**changes))
    base = BaseOrder(source=source, fetch="plugin:fetch", cache=tmp_path / "cache")
    return TrainOrder(base=base, spec=spec, train=file, validation=None)


def messages(channel: Channel) -> list[str]:
    lines: bytes = channel._messages.getvalue()  # type: ignore[attr-defined]
    events = [json.loads(line)["event"] for line in lines.splitlines()]
    return [event["message"] for event in events if event["type"] == "message"]


def test_training_goes_on_from_a_checkpoint_made_with_other_threads(channel: Channel, tmp_path: Path) -> None:
    """A worker may be started again with fewer processors, or after an update of torch."""
    train.execute(order_of(tmp_path, threads=2), channel)
    outcome = train.execute(order_of(tmp_path), channel)
    assert outcome.report.environment["threads"] == 1
    assert "threads 2 -> 1" in outcome.report.environment["continued"][0]


def test_training_starts_again_if_the_checkpoint_belongs_to_a_different_one(channel: Channel, tmp_path: Path) -> None:
    """An update of transformers may have changed how examples are tokenized."""
    train.execute(order_of(tmp_path, epochs=2), channel)
    outcome = train.execute(order_of(tmp_path), channel)
    assert outcome.report.steps == 3
    assert any(text.startswith("starting from the beginning: ") for text in messages(channel))
    assert sorted(path.name for path in channel.checkpoints.iterdir()) == ["step-00000001", "step-00000002"]


def test_members_of_a_group_go_on_in_a_smaller_group_and_alone(channel: Channel, tmp_path: Path) -> None:
    members = [channel.member(name, tmp_path / name) for name in ("a", "b")]
    orders = [order_of(tmp_path), order_of(tmp_path, epochs=2)]  # the second is a different training later
    ended: dict[int, Any] = {}
    train.execute_together(orders, members, ended.__setitem__)
    train.execute_together([orders[0], orders[0]], members, ended.__setitem__)
    assert [outcome.report.steps for outcome in ended.values()] == [3, 3]
    alone = train.execute(orders[0], members[0])
    assert "members 2 -> 1" in alone.report.environment["continued"][-1]


@pytest.mark.parametrize(("dtype", "is_compared"), [("auto", True), ("float32", False)])
def test_speed_is_compared_with_the_measured_one_if_the_measurement_chose_the_dtype(
    dtype: Any, is_compared: bool, channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[float, Path | None]] = []
    monkeypatch.setattr(precision, "doubt_if_slow", lambda speed, *, cache: compared.append((speed, cache)))
    report = train.execute(order_of(tmp_path, dtype=dtype), channel).report
    parameters = report.total_parameters - report.trainable_parameters
    speed = 4 * parameters * report.tokens / report.seconds
    assert compared == ([(pytest.approx(speed), tmp_path / "cache")] if is_compared else [])


@pytest.mark.parametrize("problem", ["none", "rows that are too long", "a damaged file", "an unknown field"])
def test_text_of_a_dataset_is_neither_reported_nor_logged(
    problem: str, channel: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marked = [Example.of_pair(f"Where does zyzzyva {number} live? " * 9, "zyzzyva " * 9) for number in range(12)]
    order = order_of(tmp_path, **({"max_length": 16} if problem == "rows that are too long" else {}))
    content = reading.dump_examples(marked)
    if problem == "a damaged file":
        content = content[:-9]
    if problem == "an unknown field":
        content = content.replace(b'{"messages"', b'{"note":"zyzzyva","messages"')
    order.train.write_bytes(content)
    message = {
        "kind": "train",
        "job_id": "job",
        "workdir": str(tmp_path / "work"),
        "order": order.model_dump(mode="json"),
    }
    with caplog.at_level(logging.DEBUG):
        assert child.run(message, channel) is (problem == "none")
    said = channel._messages.getvalue().decode() + caplog.text  # type: ignore[attr-defined]
    assert '"type": "done"' in said if problem == "none" else '"type": "failed"' in said
    assert "zyzzyva" not in said


def test_report_says_how_the_rows_were_read(channel: Channel, tmp_path: Path) -> None:
    order = order_of(tmp_path, max_steps=1)
    reading_report = ReadingReport(rows=14, left_out=2, unused={"id": 12})
    outcome = train.execute(order.evolve(spec=order.spec.evolve(reading=reading_report)), channel)
    assert outcome.report.data.reading == reading_report
    assert outcome.report.data.examples == 12


def read_samples(outcome: train.TrainOutcome) -> Samples:
    assert outcome.samples is not None
    return Samples.of(outcome.samples.read_bytes())


def test_samples_are_kept_apart_and_change_no_byte_of_the_adapter(channel: Channel, tmp_path: Path) -> None:
    order = order_of(tmp_path, validation=0.25, epochs=2, checkpoint_every=None)
    weights = []
    for samples, count in ((0, None), (None, None), (2, 2)):
        changed = order.evolve(spec=order.spec.evolve(training=order.spec.training.evolve(samples=samples)))
        channel.workdir = tmp_path / f"samples {samples}"
        outcome = train.execute(changed, channel)
        assert outcome.samples is None if count is None else len(read_samples(outcome).samples) == count
        weights.append((outcome.adapter / "adapter_model.safetensors").read_bytes())
    assert len(set(weights)) == 1
    said = channel._messages.getvalue().decode()  # type: ignore[attr-defined]
    assert read_samples(outcome).samples[0].prompt not in said


def test_members_of_a_group_have_samples_of_their_own_adapters(channel: Channel, tmp_path: Path) -> None:
    orders = [order_of(tmp_path, validation=0.25, epochs=epochs, checkpoint_every=None) for epochs in (1, 3)]
    weights = []
    for samples in (0, 2):
        changed = [
            order.evolve(spec=order.spec.evolve(training=order.spec.training.evolve(samples=samples)))
            for order in orders
        ]
        members = [channel.member(name, tmp_path / f"{name}{samples}") for name in ("a", "b")]
        ended: dict[int, Any] = {}
        train.execute_together(changed, members, ended.__setitem__)
        weights.append([(ended[n].adapter / "adapter_model.safetensors").read_bytes() for n in (0, 1)])
        assert [ended[n].curve.steps[-1] for n in (0, 1)] == [ended[n].report.steps for n in (0, 1)]
    assert weights[0] == weights[1]
    first, second = (read_samples(ended[n]).samples for n in (0, 1))
    assert [sample.before for sample in first] == [sample.before for sample in second]
    assert len(first) == 2


def test_training_from_a_version_has_samples_of_that_version_before(
    channel: Channel, tmp_path: Path, tiny_base: Base
) -> None:
    order = order_of(tmp_path, validation=0.25, checkpoint_every=None, samples=2, epochs=3)
    first = train.execute(order, channel)
    channel.workdir = tmp_path / "further"
    further = order.evolve(spec=order.spec.evolve(start="birds/1"), start=first.adapter)
    samples = read_samples(train.execute(further, channel))
    assert samples.start == "birds/1"
    assert [sample.before for sample in samples.samples] == [sample.after for sample in read_samples(first).samples]
    assert read_samples(first).start is None
    assert not any(isinstance(module, LoraLayer) for module in tiny_base.model.modules())


def test_training_succeeds_if_its_samples_fail(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of memory at: What does finch 3 eat?")

    monkeypatch.setattr("finch_hub.engine.inference.samples.sample_answers", fail)
    outcome = train.execute(order_of(tmp_path, validation=0.25, samples=1), channel)
    assert outcome.samples is None
    assert messages(channel)[-1] == "no sample answers were kept: RuntimeError"
