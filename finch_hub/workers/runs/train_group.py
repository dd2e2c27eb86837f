"""Several trainings in one step, in the child; for the supervisor each is a run of `finch_hub.workers.runs.train`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.specs.events import NewEvent
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig
from finch_hub.workers.runs import train

if TYPE_CHECKING:
    from finch_hub.engine.bases.loading import Base
    from finch_hub.engine.training.group import Member, Outcome
    from finch_hub.workers.runs.channel import Channel

Settle = Callable[[int, dict[str, Any] | BaseException], None]


def execute(orders: Sequence[dict[str, Any]], channels: Sequence[Channel], settle: Settle) -> None:
    """Train them; `settle` is told of each what it made or why it made nothing, as soon as that is known.

    Raises:
        TrainingFailed: memory does not suffice for all of them.
        InvalidSpec: one of them cannot be trained together with others.

    """
    for channel in channels:
        channel.report(NewEvent.phase("importing"))
    from finch_hub.engine.training.group import train_gang

    def say(text: str) -> None:
        for channel in channels:
            channel.report(NewEvent.phase(text))

    training = TrainingConfig.of(orders[0]["training"])
    base = channels[0].bases.load(orders[0]["base"], say=say, dtype=training.dtype)
    say(f"training together with {len(orders) - 1} others")
    members: list[Member] = []
    for place, (order, channel) in enumerate(zip(orders, channels, strict=True)):
        try:
            members.append(_member(order, channel, base, len(orders), functools.partial(settle, place)))
        except errors.FinchError as error:
            settle(place, error)
    train_gang(base, members)


def _member(
    order: dict[str, Any],
    channel: Channel,
    base: Base,
    size: int,
    settle: Callable[[dict[str, Any] | BaseException], None],
) -> Member:
    from finch_hub.engine.training.group import Member
    from finch_hub.engine.training.loop import Trained

    training = TrainingConfig.of(order["training"])
    examples, validation = train.read_data(order, training, channel)

    def ended(outcome: Outcome) -> None:
        if isinstance(outcome, Trained):
            settle(train.save(outcome, order, channel, base, validation))
        else:
            settle(outcome)

    return Member(
        config=LoRAConfig.of(order["lora"]),
        training=training,
        examples=examples,
        validation=validation,
        system=order["system"],
        # Rounding depends on how many are trained together, so a checkpoint serves a gang of the same size only.
        workdir=channel.checkpoints / f"of-{size}",
        report=channel.report,
        should_stop=channel.should_stop,
        ended=ended,
    )
