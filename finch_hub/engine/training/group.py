"""Training group: several adapters on one base, trained with shared forward and backward passes.

The products of a small job are too small to keep a processor busy, and read all of the base's weights for few tokens.
Several jobs together fill it (LoRAFusion, arXiv 2510.00206). Every job keeps its own optimizer, schedule, dropout
masks, evaluations, checkpoints and end. So its result is the same as alone, except for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.base import Base
from finch_hub.engine.bases.layout_builder import describe_model
from finch_hub.engine.decoder.decoder import can_pack
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.numerics.threads import use_threads
from finch_hub.engine.training import loop
from finch_hub.engine.training.data import prepare_data
from finch_hub.engine.training.duration import estimate_seconds
from finch_hub.engine.training.interruption import Interrupted, ShouldStop
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.engine.training.run import TrainingRun
from finch_hub.progress import listen
from finch_hub.specs.events import Report, silent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

MemberResult = loop.Trained | errors.FinchError | Interrupted
"""Result of a member; errors are returned, so that one member's error does not end the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One job of a training group, with the arguments of :func:`finch_hub.engine.training.loop.train`.

    The member owns its `workdir`: it removes checkpoints of a different training there.

    `on_end` receives the result as soon as it is known, while the others continue. It may detach the adapter.
    """

    config: LoRAConfig
    training: TrainingConfig
    examples: Sequence[Example]
    validation: Sequence[Example] | None = None
    system: str | None = None
    workdir: Path | None = None
    report: Report = silent
    should_stop: ShouldStop = lambda: None
    on_end: Callable[[MemberResult], None] = lambda result: None


class _MemberTraining:
    """Training of one member, from its data to its result."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._adapter: AttachableAdapter | None = None
        self.run: TrainingRun | None = None
        self.result: MemberResult | None = None

    def prepare(self, base: Base, name: str, members: int) -> None:
        """Prepare data, adapter and run, and resume from a checkpoint; a failure becomes the result."""
        member = self._member
        reporter = ProgressReporter(member.report, base.device)
        try:
            data = prepare_data(
                base,
                member.training,
                member.examples,
                member.validation,
                system=member.system,
                reporter=reporter,
                should_stop=member.should_stop,
            )
            self._adapter = AttachableAdapter(member.config, base, name=name, seed=member.training.seed)
            self.run = TrainingRun(
                base,
                self._adapter,
                PackedDecoder(base.model, adapter=name),
                member.training,
                data,
                workdir=member.workdir,
                reporter=reporter,
                should_stop=member.should_stop,
                members=members,
            )
            self.run.resume(owns_workdir=True)
        except (errors.FinchError, Interrupted) as error:
            self.end(error)

    def begin_step(self) -> bool:
        """Return whether there is another step, and end the training if there is none."""
        if self.run is None:
            return False
        try:
            with listen(self.run.reporter.report_advance):
                if loop.begin_step(self.run):
                    return True
        except (errors.FinchError, Interrupted) as error:
            self.end(error)
        else:
            self.end(None)
        return False

    def end(self, failure: errors.FinchError | Interrupted | None) -> None:
        """Set the result and pass it to the member; detach the adapter of a failed member."""
        if failure is not None:
            self.result = failure
        elif self.run is not None and self._adapter is not None:
            self.result = loop.Trained(adapter=self._adapter, report=self.run.finish(), curve=self.run.curve())
        self._close()
        if self._adapter is not None:
            self._adapter.disable()
            if failure is not None:
                self._adapter.detach()
        if self.result is not None:
            self._member.on_end(self.result)

    def discard(self) -> None:
        """Detach the adapter without a result."""
        if self.result is None and self._adapter is not None:
            self._close()
            self._adapter.detach()

    def _close(self) -> None:
        if self.run is not None:
            self.run.close()
            self.run = None


def can_join(base: Base, config: LoRAConfig, training: TrainingConfig) -> bool:
    """Return whether a training group can have this job: packed rows, plain LoRA below the head, no EVA."""
    is_plain = config.rank != "auto" and config.init != "eva" and not config.use_dora
    is_packed = training.packing and not training.gradient_checkpointing
    if not (is_plain and is_packed and can_pack(base)):
        return False
    return not target_modules.names_head(config, describe_model(base.model, name=base.name))


def train_group(base: Base, members: Sequence[Member]) -> list[MemberResult]:
    """Train the members together, and return their results in order.

    Members that end early leave the group. The adapters of successful members stay on the base, disabled, with the
    names ``member-0`` and so on.

    Args:
        base: base without other adapters.
        members: jobs; their ranks, modules, learning rates, batch sizes and lengths may differ.

    Raises:
        InvalidSpec: the numbers of threads differ, or a member cannot be trained in a group.
        TrainingFailed: memory is too small; train the members alone.
    """
    threads = {member.training.threads for member in members}
    problems = [
        errors.Problem(where=f"member {place}", what="cannot be trained in a group", fix="train it alone")
        for place, member in enumerate(members)
        if not can_join(base, member.config, member.training)
    ]
    if len(threads) > 1:
        what, fix = "the members have different numbers of threads", "give all the same number"
        problems.append(errors.Problem(where="threads", what=what, fix=fix))
    if problems:
        raise errors.InvalidSpec(problems, subject="training group")
    trainings = [_MemberTraining(member) for member in members]
    decoder = PackedDecoder(base.model)
    try:
        with use_threads(threads.pop()):
            for number, training in enumerate(trainings):
                training.prepare(base, f"member-{number}", len(members))
            runs = [training.run for training in trainings if training.run is not None]
            for run, seconds in zip(runs, estimate_seconds(decoder, runs), strict=True):
                run.announce(seconds)
            while active := [training for training in trainings if training.begin_step()]:
                runs = [training.run for training in active if training.run is not None]
                for training, failure in zip(active, loop.take_step(decoder, runs), strict=True):
                    if failure is not None:
                        training.end(failure)
    except BaseException:
        for training in trainings:
            training.discard()
        raise
    return [training.result for training in trainings if training.result is not None]
