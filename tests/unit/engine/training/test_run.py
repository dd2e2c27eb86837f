"""Actions of a training between its steps."""

from __future__ import annotations

from pathlib import Path

import torch
from support.training import lessons, started

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training import checkpoint, loop
from finch_hub.specs.events import NewEvent
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def test_micro_batch_bounds_are_reported_by_step_and_repeat_the_division(tiny_base: Base) -> None:
    running = started(
        tiny_base, QUICK.evolve(batch_size=12, validation=0, epochs=3), AttachableAdapter(LORA, tiny_base)
    )
    for limit in (None, 200, 100):
        if limit is not None:
            running.limit_micro_batches(limit)
        running.apply_gradients(torch.tensor(1.0), seconds=0.1)
    running.close()
    used = running.finish().environment["batch_tokens"]
    assert used == ((0, None), (1, 200), (2, 100))
    again = started(
        tiny_base,
        QUICK.evolve(batch_size=12, validation=0, epochs=3),
        AttachableAdapter(LORA, tiny_base, name="a"),
        batch_tokens=used,
    )
    sizes = []
    for _ in range(3):
        sizes.append([len(rows) for rows in again.micro_batches()])
        again.apply_gradients(torch.tensor(1.0), seconds=0.1)
    again.close()
    assert sizes[0] == [12]
    assert 1 < len(sizes[1]) < len(sizes[2])


def test_evaluate_every_below_one_is_a_share_of_an_epoch(tiny_base: Base) -> None:
    events: list[NewEvent] = []
    training = QUICK.evolve(epochs=1, evaluate_every=0.5, batch_size=2)
    loop.train(tiny_base, LORA, training, lessons(16), lessons(20)[16:], report=events.append)
    assert [e.data["step"] for e in events if e.type == "metrics"] == [0, 4, 8]


def test_checkpoints_are_saved_at_the_interval_and_the_newest_are_kept(tiny_base: Base, tmp_path: Path) -> None:
    training = QUICK.evolve(validation=0, checkpoint_every=2, keep_checkpoints=2)
    loop.train(tiny_base, LORA, training, lessons(24), workdir=tmp_path)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000010", "step-00000008"]
