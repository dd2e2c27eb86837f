"""Events of a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.training import lessons

from finch_hub.engine.bases.base import Base
from finch_hub.engine.training import loop, progress_reporter
from finch_hub.specs.events import NewEvent
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def test_progress_is_reported_at_most_four_times_a_second(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    seconds = 100.0

    def a_tenth_later() -> None:
        nonlocal seconds
        seconds = 100.0 + next(clock) / 10

    monkeypatch.setattr(progress_reporter, "time", SimpleNamespace(monotonic=lambda: seconds))
    events: list[NewEvent] = []
    loop.train(
        tiny_base, LORA, QUICK.evolve(validation=0), lessons(40), report=events.append, should_stop=a_tenth_later
    )
    reported = [event.data for event in events if event.type == "progress"]
    assert [data["step"] for data in reported] == [1, 4, 7, 10, 13, 16, 19, 20]
    assert set(reported[-1]) >= {"steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
    assert reported[-1]["memory_bytes"] > 0
    assert reported[0]["seconds_left"] > 0 == reported[-1]["seconds_left"]
