"""Training data: refused, or described before the first step."""

from __future__ import annotations

import pytest
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training import loop
from finch_hub.engine.training.data import TrainingData, prepare_data
from finch_hub.engine.training.interruption import Interrupted, Interruption
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.progress import Advance
from finch_hub.specs.events import NewEvent, silent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)
LONG = Example.of_pair("finch " * 3000, "It sings.")


def test_data_and_estimated_duration_are_reported_before_the_first_step(tiny_base: Base) -> None:
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


def test_no_examples_and_lengths_above_the_context_are_refused(tiny_base: Base) -> None:
    with pytest.raises(errors.InvalidDataset, match="no examples"):
        loop.train(tiny_base, LORA, QUICK, ())
    with pytest.raises(errors.InvalidSpec, match=f"max_length.*{tiny_base.context}"):
        loop.train(tiny_base, LORA, QUICK.evolve(max_length=tiny_base.context + 1), lessons(12))


def test_tokenizing_tells_its_progress_and_stops_on_request(tiny_base: Base, told: list[Advance]) -> None:
    events: list[NewEvent] = []
    with pytest.raises(Interrupted, match="cancel"):
        loop.train(tiny_base, LORA, QUICK, lessons(9), report=events.append, should_stop=lambda: "cancel")
    (advance,) = [event.data for event in events if event.type == "progress"]
    assert (advance["unit"], advance["step"]) == ("tokenizing data", 1)
    assert not told  # the training has a listener of its own


@pytest.mark.parametrize("work", ["comparing rows", "comparing rows with held-out ones"])
def test_comparing_of_rows_stops_on_request(tiny_base: Base, told: list[Advance], work: str) -> None:
    events: list[NewEvent] = []

    def should_stop() -> Interruption | None:
        return "cancel" if events and events[-1].data.get("unit") == work else None

    with pytest.raises(Interrupted, match="cancel"):
        loop.train(tiny_base, LORA, QUICK, lessons(9), report=events.append, should_stop=should_stop)
    assert events[-1].data["unit"] == work
    assert not told


def prepare(base: Base, examples: list[Example], validation: list[Example]) -> TrainingData:
    reporter = ProgressReporter(silent, base.device)
    return prepare_data(base, QUICK, examples, validation, system=None, reporter=reporter)


@pytest.mark.parametrize("is_held_out", [False, True])
def test_one_long_row_of_forty_is_left_out_on_whichever_side_it_is(tiny_base: Base, is_held_out: bool) -> None:
    rows = lessons(39)
    examples, validation = ([*rows[4:]], [*rows[:4], LONG]) if is_held_out else ([*rows[4:], LONG], [*rows[:4]])
    data = prepare(tiny_base, examples, validation)
    assert (len(data.train_set), len(data.held_out), data.lost) == (35, 4, 1)


def test_long_rows_of_both_sides_count_together(tiny_base: Base) -> None:
    rows = lessons(37)
    with pytest.raises(errors.InvalidDataset, match="validation data: example 5: has"):
        prepare(tiny_base, [*rows[4:], LONG, LONG], [*rows[:4], LONG])
