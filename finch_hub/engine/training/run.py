"""One training in progress: its data, its optimiser, what it knows, and what it does between steps."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data import batches
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.decoder.decoder import Decoder, Head
from finch_hub.engine.decoder.packed import Part
from finch_hub.engine.numerics.concurrency import MOST
from finch_hub.engine.training import Interrupted, Interruption, checkpoint, environment, identity, schedule
from finch_hub.engine.training.optimizer import FlatAdamW
from finch_hub.engine.training.progress import Progress
from finch_hub.engine.training.state import BatchTokens, State
from finch_hub.engine.training.stopping import Stopping
from finch_hub.specs.reports import DataReport, TrainingReport
from finch_hub.specs.training import TrainingConfig

_CHECKPOINT_SECONDS = 30.0
_SMOOTHING = 0.9  # of the reported loss: about the last ten steps

ShouldStop = Callable[[], Interruption | None]


class _Step(NamedTuple):
    """A step whose figures still are on the device."""

    number: int
    loss: Tensor
    norm: Tensor
    label_tokens: int


class Run:
    """One training in progress.

    Between steps it evaluates, keeps checkpoints and listens to whether it shall stop; the gradients of a step are
    computed by :mod:`finch_hub.engine.training.loop`, perhaps together with those of other runs.

    Args:
        base: with the adapter on it.
        adapter: to be trained.
        decoder: of the base, for evaluation.
        training: settings.
        train_set: to learn.
        held_out: to measure on, perhaps empty.
        workdir: of checkpoints, None for none.
        progress: takes events.
        should_stop: asked between steps and between batches of an evaluation.
        members: runs whose gradients are computed together; bytes depend on it.
        batch_tokens: what an earlier run's report says of them, to divide every step as it did; None begins with what
            the settings say.

    Raises:
        InvalidSpec: settings that don't go together or don't fit the data.
        Incompatible: the base's head cannot be trained through.

    """

    def __init__(
        self,
        base: Base,
        adapter: AttachableAdapter,
        decoder: Decoder,
        training: TrainingConfig,
        train_set: Sequence[TokenizedExample],
        held_out: Sequence[TokenizedExample],
        *,
        workdir: Path | None,
        progress: Progress,
        should_stop: ShouldStop,
        members: int = 1,
        batch_tokens: BatchTokens | None = None,
    ) -> None:
        self.base, self.adapter, self.training = base, adapter, training
        self.progress = progress
        self.head = Head(base.model)
        self.lengths = [len(example) for example in train_set]
        self._train_set, self._held_out = train_set, held_out
        self._decoder = decoder
        self._workdir, self._should_stop = workdir, should_stop
        self._labels = [int(example.labels.sum()) for example in train_set]
        if problems := schedule.check(training, examples=len(train_set), held_out=len(held_out)):
            raise errors.InvalidSpec(problems, subject="training")
        self.steps_per_epoch, self.steps = schedule.steps_of(training, len(train_set))
        self._warmup = schedule.warmup_steps(training, self.steps)
        # The members of a gang are all on the base; alone, what else is enabled there acts too, as in evaluation.
        self._only = adapter.name if members > 1 else None
        self._environment = {**environment.describe(base), "members": members}
        self._identity = identity.of(base, adapter, training, train_set, held_out, self._environment)
        self._optimizer = FlatAdamW(adapter.parameters(), training)
        self._best: list[Tensor] | None = None
        self._state = State(
            stopping=Stopping(patience=training.patience, min_improvement=training.min_improvement),
            batch_tokens=batch_tokens or ((0, training.batch_tokens),),
        )
        self._pending: list[_Step] = []
        self._last_checkpoint = time.monotonic()
        self._plan: tuple[int, list[tuple[int, ...]]] | None = None

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one.

        Raises:
            InvalidCheckpoint: it belongs to other work.

        """
        if self._workdir is None:
            return
        found, damaged = checkpoint.newest(self._workdir, self._identity)
        for problem in damaged:
            self.progress.warn(f"a checkpoint was passed over: {problem}")
        if found is None:
            return
        self._state = State.of(dict(found.state))
        self._optimizer.load({key[1:]: value for key, value in found.tensors.items() if key.startswith("=")})
        best = [found.tensors[key] for key in sorted(found.tensors) if key.startswith("best.")]
        self._best = [tensor.to(self.base.device) for tensor in best] or None
        self.progress.phase(f"resumed after step {self._state.step}")

    @property
    def done(self) -> bool:
        """Tell whether all steps are done, or patience is used up."""
        return self._state.step >= self.steps or self._state.stopping.due

    def ready(self) -> bool:
        """Do what is due between two steps; tell whether there is another one.

        Raises:
            Interrupted: it was told to stop.
            Diverged: the held-out loss is not finite.

        """
        if self._evaluation_due():
            self._evaluate()
        if self.done:
            return False
        self._obey()
        every = self.training.checkpoint_every
        late = time.monotonic() - self._last_checkpoint > _CHECKPOINT_SECONDS
        if self._state.step > 0 and (self._state.step % every == 0 if every else late):
            self._save()
        return True

    @property
    def examples(self) -> int:
        """Count the examples of all steps, each as often as it comes."""
        return round(len(self.lengths) * self.steps / self.steps_per_epoch)

    def rows(self) -> tuple[int, ...]:
        """Return the examples of the coming step, by their places in the training set."""
        epoch, place = divmod(self._state.step, self.steps_per_epoch)
        if self._plan is None or self._plan[0] != epoch:
            steps = batches.plan_epoch(
                self.lengths,
                batch_size=self.training.batch_size,
                accumulation=self.training.gradient_accumulation,
                seed=self.training.seed,
                epoch=epoch,
                by_length=self._decoder.pads,
            )
            self._plan = (epoch, steps)
        return self._plan[1][place]

    def label_tokens(self) -> int:
        """Count what the coming step's loss is the mean over."""
        return sum(self._labels[row] for row in self.rows())

    def micro_batches(self) -> list[tuple[int, ...]]:
        """Divide the coming step's examples into what is computed at once."""
        *_, limit = (tokens for step, tokens in self._state.batch_tokens if step <= self._state.step)
        return batches.micro_batches(self.rows(), self.lengths, batch_size=self.training.batch_size, batch_tokens=limit)

    def parts(self, number: int, rows: Sequence[int]) -> list[Part]:
        """Make the coming step's micro-batch of that number, in parts that may be computed side by side."""
        share_prefix = self.training.share_prefix and self._decoder.shares_prefix
        examples = [self._train_set[row] for row in rows]
        ways = min(torch.get_num_threads(), MOST) if self._decoder.concurrent else 1
        found = []
        for shard, places in enumerate(batches.shards(examples, ways=ways, share_prefix=share_prefix)):
            batch = batches.pack([examples[place] for place in places], share_prefix=share_prefix)
            mixed = hashlib.sha256(f"{self.training.seed}:{self._state.step}:{number}:{shard}".encode()).digest()
            seed = int.from_bytes(mixed[:8], "little") >> 1
            found.append(Part(batch=batch.to(self.base.device), adapter=self._only, seed=seed))
        return found

    def clear(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad()

    @property
    def finite(self) -> bool:
        """Whether the gradients are numbers; asking waits for the device."""
        return bool(torch.isfinite(self._optimizer.gradient_norm()))

    def limit(self, batch_tokens: int) -> None:
        """Compute at most so many tokens at once from here on."""
        step = self._state.step
        before = tuple(one for one in self._state.batch_tokens if one[0] < step)
        self._state = self._state.evolve(batch_tokens=(*before, (step, batch_tokens)))
        self.progress.warn(f"out of memory: micro-batches of at most {batch_tokens:,} tokens from step {step + 1} on")

    def update(self, loss: Tensor, seconds: float) -> None:
        """Finish a step whose gradients are there.

        Args:
            loss: mean over the step's label tokens, 0-dim, on the device.
            seconds: that the gradients took.

        Raises:
            Diverged: the loss or a gradient is not finite, or the model has become worse than guessing.

        """
        began = time.monotonic()
        step, rows = self._state.step, self.rows()
        rate = self.training.learning_rate * schedule.factor(
            step, steps=self.steps, warmup=self._warmup, schedule=self.training.schedule
        )
        norm = self._optimizer.step(rate)
        self._pending.append(_Step(step + 1, loss, norm, self.label_tokens()))
        self._state = self._state.evolve(
            step=step + 1,
            tokens=self._state.tokens + sum(self.lengths[row] for row in rows),
            seconds=self._state.seconds + seconds + time.monotonic() - began,
        )
        if self.progress.due or self._state.step == self.steps:
            last = self._settle()
            self._report_progress(rate, float(last.norm))

    def _settle(self) -> _Step:
        """Take in the losses of the latest steps and return the last of them.

        To read a number is to wait for the device, so it is done when something is to be said, measured or saved.

        Raises:
            Diverged: as from :meth:`update`, naming the first step.

        """
        pending, self._pending = self._pending, []
        for one in pending:
            loss = float(one.loss)
            if not (math.isfinite(loss) and math.isfinite(float(one.norm))):
                raise self._diverged(one.number, "the loss or its gradient is not finite")
            smoothed = self._state.smoothed_loss
            smoothed = loss if smoothed is None else _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            first = loss if self._state.first_loss is None else self._state.first_loss
            if smoothed > max(math.log(self.head.vocabulary), first) + 1.0:
                # Guessing all tokens alike has the loss ln V: whoever does worse, and did not begin so, lost what it
                # knew.
                raise self._diverged(one.number, f"the loss has risen to {smoothed:.2f}, worse than guessing")
            self._state = self._state.evolve(
                label_tokens=self._state.label_tokens + one.label_tokens,
                loss_sum=self._state.loss_sum + loss * one.label_tokens,
                smoothed_loss=smoothed,
                first_loss=first,
            )
        return pending[-1]

    def finish(self, data: DataReport) -> TrainingReport:
        """Restore the best parameters and write the report."""
        if self._best is not None:
            self._optimizer.restore(self._best)
        state = self._state
        if state.before and state.after and state.after.loss >= state.before.loss:
            self.progress.warn("the held-out loss did not fall: the adapter is no better than the base on this data")
        trainable = self.adapter.trainable_parameters
        return TrainingReport(
            steps=state.step,
            epochs=state.step / self.steps_per_epoch,
            tokens=state.tokens,
            seconds=state.seconds,
            train_loss=state.loss_sum / max(1, state.label_tokens),
            before=state.before,
            after=state.after,
            best_step=state.stopping.best_step,
            stopped_early=state.stopping.due and state.step < self.steps,
            trainable_parameters=trainable,
            total_parameters=self.base.parameters + trainable,
            data=data,
            environment={**self._environment, "batch_tokens": state.batch_tokens},
        )

    def close(self) -> None:
        """Leave adapter and base as they are used: parameters with memory of their own, no gradients, no dropout."""
        self._optimizer.release()
        self.base.model.eval()

    def _evaluation_due(self) -> bool:
        step = self._state.step
        if not self._held_out or self._state.evaluated_step == step:
            return False
        wanted = self.training.evaluate_every or 1.0
        every = wanted if isinstance(wanted, int) else max(1, round(wanted * self.steps_per_epoch))
        return step % every == 0 or step >= self.steps

    def _evaluate(self) -> None:
        if self._pending:
            self._settle()
        step = self._state.step
        try:
            metrics = evaluation.evaluate(
                self._decoder, self.head, self._held_out, device=self.base.device, between=self._obey
            )
        except errors.Diverged as error:
            raise self._diverged(step, str(error)) from None
        self.progress.metrics(step, metrics)
        if step == 0:
            self._state = self._state.evolve(before=metrics, evaluated_step=step)
            return
        changes: dict[str, Any] = {"evaluated_step": step, "stopping": self._state.stopping.after(metrics.loss, step)}
        if self._state.stopping.improves(metrics.loss):
            self._best = self._optimizer.snapshot()
            changes["after"] = metrics
        self._state = self._state.evolve(**changes)

    def _obey(self) -> None:
        kind = self._should_stop()
        if kind is None:
            return
        if kind == "hand_back":
            self._save()
        raise Interrupted(kind)

    def _save(self) -> None:
        if self._pending:
            self._settle()
        if self._workdir is None:
            return
        tensors = {f"={name}": tensor for name, tensor in self._optimizer.state().items()}
        tensors |= {f"best.{number}": tensor for number, tensor in enumerate(self._best or ())}
        made = checkpoint.Checkpoint(
            step=self._state.step,
            identity=self._identity,
            state=self._state.model_dump(mode="json", exclude_defaults=True),
            tensors=tensors,
        )
        checkpoint.save(self._workdir, made, keep=self.training.keep_checkpoints)
        self._last_checkpoint = time.monotonic()

    def _report_progress(self, rate: float, norm: float) -> None:
        state = self._state
        per_step = state.seconds / state.step
        self.progress.progress(
            step=state.step,
            steps=self.steps,
            epoch=round(state.step / self.steps_per_epoch, 3),
            loss=state.smoothed_loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_per_second=state.tokens / state.seconds if state.seconds else None,
            seconds_left=per_step * (self.steps - state.step),
        )

    def _diverged(self, step: int, what: str) -> errors.Diverged:
        kept = sorted(self._workdir.glob("step-*")) if self._workdir and self._workdir.is_dir() else []
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint"
        return errors.Diverged(f"{what} at step {step}; {good}; a lower learning rate may help")
