"""Several adapters on one base trained together: one forward and backward pass for the rows of all.

A small job's products are too small to keep a processor busy, and read all of the base's weights for few tokens. Those
of several jobs side by side are not (LoRAFusion, arXiv 2510.00206). Every job keeps its own optimiser, schedule,
dropout masks, evaluations, checkpoints and end, so its result is what it would be alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter, attach
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.report import data_report
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.training import Interrupted, loop
from finch_hub.engine.training.progress import Progress
from finch_hub.engine.training.run import Run, ShouldStop
from finch_hub.specs.events import Report, silent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import DataReport
from finch_hub.specs.training import TrainingConfig

Outcome = loop.Trained | errors.FinchError | Interrupted
"""What became of a member; errors are returned, so that one member's do not end the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One job of a gang: what :func:`finch_hub.engine.training.loop.train` takes.

    Attributes:
        ended: told what became of it as soon as that is known, while the others go on; it may take the adapter off.

    """

    config: LoRAConfig
    training: TrainingConfig
    examples: Sequence[Example]
    validation: Sequence[Example] | None = None
    system: str | None = None
    workdir: Path | None = None
    report: Report = silent
    should_stop: ShouldStop = lambda: None
    ended: Callable[[Outcome], None] = lambda outcome: None


class _Seat:
    """One member's place: its run while it trains, its outcome in the end."""

    def __init__(self, base: Base, member: Member, number: int) -> None:
        self._base, self._member = base, member
        self._name = f"gang-{number}"
        self._adapter: AttachableAdapter | None = None
        self._data: DataReport | None = None
        self.run: Run | None = None
        self.outcome: Outcome | None = None

    def join(self, members: int) -> loop.Data | None:
        """Prepare everything, and go on from a checkpoint if there is one; None where that failed."""
        member, base = self._member, self._base
        progress = Progress(member.report, base.device)
        try:
            data = loop.prepare(
                base, member.training, member.examples, member.validation, system=member.system, progress=progress
            )
            self._adapter = attach(base, member.config, name=self._name, seed=member.training.seed)
            self.run = Run(
                base,
                self._adapter,
                PackedDecoder(base.model, adapter=self._name),
                member.training,
                data.train_set,
                data.held_out,
                workdir=member.workdir,
                progress=progress,
                should_stop=member.should_stop,
                members=members,
            )
            self.run.resume()
        except (errors.FinchError, Interrupted) as error:
            self.leave(error)
            return None
        return data

    def begin(self, run: Run, data: loop.Data, seconds: float | None) -> None:
        """Tell of the data, and that so many seconds of training begin."""
        self._data = data_report(data.examples, data.validation, data.train_set, steps=run.steps, seconds=seconds)
        run.progress.report("data", self._data)
        run.progress.phase("training")

    def ready(self) -> bool:
        """Tell whether there is another step, and settle the outcome if there is none."""
        if self.run is None:
            return False
        try:
            if self.run.ready():
                return True
        except (errors.FinchError, Interrupted) as error:
            self.leave(error)
        else:
            self.leave(None)
        return False

    def leave(self, failure: errors.FinchError | Interrupted | None) -> None:
        """Settle the outcome and tell of it; the adapter of a failed member leaves the base."""
        if failure is not None:
            self.outcome = failure
        elif self.run is not None and self._adapter is not None and self._data is not None:
            self.outcome = loop.Trained(adapter=self._adapter, report=self.run.finish(self._data))
        if self.run is not None:
            self.run.close()
            self.run = None
        if self._adapter is not None:
            self._adapter.disable()
            if failure is not None:
                self._adapter.detach()
        if self.outcome is not None:
            self._member.ended(self.outcome)

    def drop(self) -> None:
        """Leave the base as it was, with no outcome."""
        if self.outcome is None and self._adapter is not None:
            if self.run is not None:
                self.run.close()
            self._adapter.detach()


def can_join(base: Base, config: LoRAConfig, training: TrainingConfig) -> bool:
    """Tell whether a job on this base can be trained in a gang: packed rows, plain LoRA, no recomputation, no EVA."""
    usual = config.rank != "auto" and config.init != "eva" and not config.use_dora
    plain = usual and training.packing and not training.gradient_checkpointing
    return plain and base.device.type == "cpu" and PackedDecoder.supports(base.model)


def train_gang(base: Base, members: Sequence[Member]) -> list[Outcome]:
    """Train the members together, and return what became of each, in order.

    Members that end early leave the others. The adapters of those that succeed stay on the base, disabled, under the
    names ``gang-0`` and so on.

    Args:
        base: without other adapters.
        members: ranks, modules, learning rates, batch sizes and lengths of training may differ.

    Raises:
        InvalidSpec: the members want different numbers of threads, or one of them cannot be trained in a gang.
        TrainingFailed: memory does not suffice; train the members alone.

    """
    threads = {member.training.threads for member in members}
    problems = [
        errors.Problem(where=f"member {place}", what="cannot be trained in a gang", fix="train it alone")
        for place, member in enumerate(members)
        if not can_join(base, member.config, member.training)
    ]
    if len(threads) > 1:
        problems.append(errors.Problem(where="threads", what="the members want different numbers of threads"))
    if problems:
        raise errors.InvalidSpec(problems, subject="gang")
    seats = [_Seat(base, member, number) for number, member in enumerate(members)]
    decoder = PackedDecoder(base.model)
    try:
        with loop.computing(threads.pop()):
            prepared = [(seat, seat.join(len(members))) for seat in seats]
            joined = [(seat, seat.run, data) for seat, data in prepared if seat.run is not None and data is not None]
            estimates = loop.estimate(decoder, [run for _, run, _ in joined])
            for (seat, run, data), seconds in zip(joined, estimates, strict=True):
                seat.begin(run, data, seconds)
            while active := [seat for seat in seats if seat.ready()]:
                runs = [seat.run for seat in active if seat.run is not None]
                for seat, failure in zip(active, loop.step(decoder, runs), strict=True):
                    if failure is not None:
                        seat.leave(failure)
    except BaseException:
        for seat in seats:
            seat.drop()
        raise
    return [seat.outcome for seat in seats if seat.outcome is not None]
