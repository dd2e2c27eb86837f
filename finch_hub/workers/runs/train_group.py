"""Train the adapters of several jobs in one step, in the child. Each job is of the kind `train` for its supervisor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.specs.events import NewEvent
from finch_hub.workers.runs import train
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.train import TrainOrder, TrainOutcome

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base
    from finch_hub.engine.training.group import Member, MemberResult

Ended = Callable[[int, TrainOutcome | BaseException], None]


def execute(orders: Sequence[TrainOrder], channels: Sequence[Channel], ended: Ended) -> None:
    """Train all orders, and call `ended` with the position and the outcome or error of each that has ended.

    Raises:
        TrainingFailed: memory does not suffice for the group.
        InvalidSpec: an order cannot be trained together with others.
    """

    def say(text: str) -> None:
        for channel in channels:
            channel.report(NewEvent.phase(text))

    say("importing")
    from finch_hub.engine.training.group import train_group

    base = channels[0].bases.load(orders[0].base, say=say, dtype=orders[0].training.dtype)
    say(f"training together with {len(orders) - 1} others")
    members: list[Member] = []
    for position, (order, channel) in enumerate(zip(orders, channels, strict=True)):
        try:
            members.append(_member(order, channel, base, len(orders), functools.partial(ended, position)))
        except errors.FinchError as error:
            ended(position, error)
    train_group(base, members)


def _member(
    order: TrainOrder, channel: Channel, base: Base, size: int, ended: Callable[[TrainOutcome | BaseException], None]
) -> Member:
    from finch_hub.engine.training.group import Member
    from finch_hub.engine.training.loop import Trained

    examples, validation = train.read_data(order, channel)

    def save(outcome: MemberResult) -> None:
        ended(train.save(outcome, order, channel, base, validation) if isinstance(outcome, Trained) else outcome)

    return Member(
        config=order.lora,
        training=order.training,
        examples=examples,
        validation=validation,
        system=order.system,
        # Rounding depends on the number of members, so a checkpoint serves only a group of the same size.
        workdir=channel.checkpoints / f"of-{size}",
        report=channel.report,
        should_stop=channel.should_stop,
        on_end=save,
    )
