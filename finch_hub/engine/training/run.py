"""One training in progress, and the actions between its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.report import make_data_report
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.decoder.decoder import Decoder, choose_decoder, describe_forward, make_head
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.packed_layer import AdapterBatch
from finch_hub.engine.forgetting.divergence import GeneralDivergence
from finch_hub.engine.training import checkpoint, environment, schedule
from finch_hub.engine.training.data import TrainingData
from finch_hub.engine.training.early_stopping import EarlyStopping
from finch_hub.engine.training.interruption import Interrupted, ShouldStop, stop_on_request
from finch_hub.engine.training.loss_curve import CurveRecorder
from finch_hub.engine.training.loss_tracker import LossTracker
from finch_hub.engine.training.optimizer import FlatAdamW
from finch_hub.engine.training.pace import Pace
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.engine.training.resume_state import BatchTokens, ResumeState, TrainingProgress
from finch_hub.engine.training.step_batches import StepBatches
from finch_hub.progress import listen
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.reports import Forgetting, TrainingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.texts.counts import format_count

_CHECKPOINT_SECONDS = 30.0
_SHOWN_PROBLEMS = 3


class TrainingRun:
    """One training in progress, and the actions between its steps.

    :mod:`finch_hub.engine.training.loop` calls these actions in order, and computes the gradients of a step, together
    with those of other runs if `members` is above 1. The bytes of the result depend on `members`. The arguments are
    those of :func:`finch_hub.engine.training.loop.train`, whose errors the actions raise.
    """

    def __init__(
        self,
        base: Base,
        adapter: AttachableAdapter,
        decoder: Decoder,
        training: TrainingConfig,
        data: TrainingData,
        *,
        workdir: Path | None,
        reporter: ProgressReporter,
        should_stop: ShouldStop,
        members: int = 1,
        batch_tokens: BatchTokens | None = None,
    ) -> None:
        if problems := schedule.find_problems(training, examples=len(data.train_set), held_out=len(data.held_out)):
            raise errors.InvalidSpec(problems, subject="training")
        self.base, self.adapter, self.training, self.reporter = base, adapter, training, reporter
        self.head = make_head(base)
        # The adapters of a group are all on the base. Alone, other enabled adapters act too, as in an evaluation.
        self._only = adapter.name if members > 1 else None
        self.batches = StepBatches(data.train_set, training, decoder, device=base.device, adapter=self._only)
        self._decoder, self._held_out = decoder, data.held_out
        self._workdir, self._should_stop = workdir, should_stop
        with listen(stop_on_request(reporter.report_advance, should_stop)):
            self._data_report = make_data_report(
                data.examples,
                data.validation,
                data.train_set,
                lost=data.lost,
                left_out=data.left_out,
                changes=data.changes,
                steps=self.batches.steps,
            )
        self._warmup = schedule.count_warmup_steps(training, self.batches.steps)
        self._environment = {
            **environment.describe(base),
            "forward": describe_forward(decoder, self.head),
            "members": members,
        }
        self._identity = checkpoint.identify_training(base, adapter, training, data)
        self._optimizer = FlatAdamW(adapter.parameters(), training)
        self._curve = CurveRecorder()
        self._losses = LossTracker(vocabulary=self.head.vocabulary, workdir=workdir, curve=self._curve)
        self._best_parameters: tuple[Tensor, ...] = ()
        self._progress = TrainingProgress(
            stopping=EarlyStopping(patience=training.patience, min_improvement=training.min_improvement),
            batch_tokens=batch_tokens or ((0, training.batch_tokens),),
        )
        self._pace = Pace()
        self._last_checkpoint = time.monotonic()

    def resume(self, *, owns_workdir: bool = False) -> None:
        """Restore the newest complete checkpoint, if there is one.

        Args:
            owns_workdir: whether to discard checkpoints of a different training, with a warning, and begin anew.

        Raises:
            InvalidCheckpoint: the checkpoint belongs to a different training.
        """
        if self._workdir is None:
            return
        found = checkpoint.load_newest(self._workdir, identity=self._identity, environment=self._environment)
        for problem in found.damaged:
            self.reporter.warn(f"skipped a checkpoint: {problem}")
        if found.changed:
            what = f"{', '.join(found.changed)} changed"
            if not owns_workdir:
                raise errors.InvalidCheckpoint(
                    f"the checkpoint {found.path} belongs to a different training: {what} "
                    "(choose another work directory, or delete this one to start again)"
                )
            self.reporter.warn(f"starting from the beginning: {what} since the checkpoint was written")
            checkpoint.discard(self._workdir)
        if found.state is None:
            return
        try:
            self._optimizer.load_state_dict(found.state.optimizer)
        except ValueError as error:
            self.reporter.warn(f"starting from the beginning: the state of the optimizer does not fit ({error})")
            return
        self._progress = found.state.progress
        self._curve.restore(found.state.curve)
        self._best_parameters = tuple(tensor.to(self.base.device) for tensor in found.state.best_parameters)
        self.reporter.report_phase(f"resumed after step {self._progress.step}")
        if found.difference:
            what = f"the checkpoint was written elsewhere ({found.difference})"
            self.reporter.warn(f"{what}, so the bytes may differ from those of an uninterrupted training")

    def measure_start(self) -> None:
        """Measure how far an adapter that was trained before is from the base on general prompts."""
        is_trained = any(bool(part.any()) for name, part in self.adapter.parameters().items() if ".lora_B." in name)
        if is_trained and self._progress.step == 0:
            divergence = self._measure_forgetting()
            self._progress = self._progress.evolve(divergence=divergence.after if divergence else 0.0)

    def announce(self, seconds: float | None) -> None:
        """Report the data and the estimated duration, before the first step."""
        self._data_report = self._data_report.evolve(seconds=seconds)
        self.reporter.report_value("data", self._data_report)
        report = self._data_report
        if report.left_out:
            problems = "; ".join(report.problems[:_SHOWN_PROBLEMS])
            self.reporter.warn(f"left out {format_count(report.left_out, 'example')}, which cannot be used: {problems}")
        for change, count in report.changes.items():
            self.reporter.warn(f"the chat template changes {format_count(count, 'example')}: {change}")
        if report.overlap:
            rows = f"{report.overlap:,} of {report.validation_examples:,} validation examples"
            self.reporter.warn(f"{rows} are trained on too, so the held-out loss is better than on new data")
        self.reporter.report_phase("training")

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or patience is used up."""
        return self._progress.step >= self.batches.steps or self._progress.stopping.is_due

    def evaluate_if_due(self) -> None:
        """Measure the held-out loss at the interval of the settings, and keep the best parameters."""
        step = self._progress.step
        if not self._held_out or self._progress.evaluated_step == step:
            return
        every = self.training.evaluate_every or 1.0
        if not isinstance(every, int):
            every = max(1, round(every * self.batches.steps_per_epoch))
        if step % every == 0 or step >= self.batches.steps:
            self._evaluate()

    def _evaluate(self) -> None:
        self._progress = self._losses.read(self._progress)
        step, stopping = self._progress.step, self._progress.stopping
        try:
            metrics = evaluation.evaluate(
                self._decoder, self.head, self._held_out, device=self.base.device, before_batch=self.stop_if_requested
            )
        except errors.Diverged as error:
            raise self._losses.diverged(step, str(error)) from None
        self.reporter.report_metrics(step, metrics)
        self._curve.add_evaluation(step, metrics.loss, metrics.accuracy)
        if step == 0:
            self._progress = self._progress.evolve(before=metrics, evaluated_step=step)
            return
        if stopping.is_best(metrics.loss):
            self._best_parameters = self._optimizer.copy_parameters()
            self._progress = self._progress.evolve(after=metrics)
        self._progress = self._progress.evolve(
            evaluated_step=step, stopping=stopping.add_evaluation(metrics.loss, step)
        )

    def stop_if_requested(self) -> None:
        """End the training if a stop was requested; leave a checkpoint if another attempt continues it."""
        kind = self._should_stop()
        if kind == "hand_back":
            self.save()
        if kind is not None:
            raise Interrupted(kind)

    def save_if_due(self) -> None:
        """Save a checkpoint at the interval of the settings, or every 30 seconds."""
        step, every = self._progress.step, self.training.checkpoint_every
        is_late = time.monotonic() - self._last_checkpoint > _CHECKPOINT_SECONDS
        if step > 0 and (step % every == 0 if every else is_late):
            self.save()

    def save(self) -> None:
        """Save a checkpoint, if there is a work directory; a diverged training is not saved."""
        self._progress = self._losses.read(self._progress)
        if self._workdir is None:
            return
        state = ResumeState(
            progress=self._progress,
            optimizer=self._optimizer.state_dict(),
            best_parameters=self._best_parameters,
            curve=self._curve.curve(),
        )
        checkpoint.save(
            self._workdir,
            state,
            identity=self._identity,
            environment=self._environment,
            keep=self.training.keep_checkpoints,
        )
        self._last_checkpoint = time.monotonic()

    def label_tokens(self) -> int:
        """Return the label tokens of the next step."""
        return self.batches.label_tokens(self._progress.step)

    def micro_batches(self) -> list[tuple[int, ...]]:
        """Divide the examples of the next step into micro-batches."""
        step = self._progress.step
        *_, max_tokens = (tokens for first_step, tokens in self._progress.batch_tokens if first_step <= step)
        return self.batches.micro_batches(step, max_tokens)

    def parts(self, number: int, rows: Sequence[int]) -> list[AdapterBatch]:
        """Divide a micro-batch of the next step into parts that can be computed side by side."""
        return self.batches.parts(self._progress.step, number, rows)

    def limit_micro_batches(self, max_tokens: int) -> None:
        """Limit the tokens of a micro-batch from the next step on."""
        step = self._progress.step
        before = tuple((first_step, tokens) for first_step, tokens in self._progress.batch_tokens if first_step < step)
        self._progress = self._progress.evolve(batch_tokens=(*before, (step, max_tokens)))
        self.reporter.warn(f"out of memory: from step {step + 1} on, a micro-batch has at most {max_tokens:,} tokens")

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        self._optimizer.zero_grad()

    def has_finite_gradients(self) -> bool:
        """Return whether all gradients are finite; this waits for the device."""
        return bool(torch.isfinite(self._optimizer.gradient_norm()))

    def apply_gradients(self, loss: Tensor, seconds: float) -> None:
        """Finish the next step with its gradients, their loss (0-dim, on the device) and their duration."""
        began = time.monotonic()
        step = self._progress.step
        factor = schedule.learning_rate_factor(
            step, steps=self.batches.steps, warmup=self._warmup, schedule=self.training.schedule
        )
        learning_rate = self.training.learning_rate * factor
        norm = self._optimizer.step(learning_rate)
        self._losses.add(step + 1, loss, norm, self.batches.label_tokens(step), learning_rate)
        seconds += time.monotonic() - began
        self._pace.add(seconds)
        self._progress = self._progress.evolve(
            step=step + 1,
            tokens=self._progress.tokens + self.batches.tokens(step),
            seconds=self._progress.seconds + seconds,
        )
        if self.reporter.is_due or step + 1 == self.batches.steps:
            self._progress = self._losses.read(self._progress)
            self._report_progress(learning_rate)

    def _report_progress(self, learning_rate: float) -> None:
        progress, steps = self._progress, self.batches.steps
        self.reporter.report_progress(
            step=progress.step,
            steps=steps,
            epoch=round(progress.step / self.batches.steps_per_epoch, 3),
            loss=progress.smoothed_loss,
            learning_rate=learning_rate,
            grad_norm=self._losses.gradient_norm,
            tokens_per_second=progress.tokens / progress.seconds if progress.seconds else None,
            seconds_left=self._estimate_seconds_left(),
        )

    def _estimate_seconds_left(self) -> float | None:
        left, steps = self.batches.steps - self._progress.step, self.batches.steps
        paced = self._pace.estimate(left)
        if paced is None and self._data_report.seconds is not None:
            return self._data_report.seconds / steps * left
        return paced

    def finish(self) -> TrainingReport:
        """Restore the best parameters and return the report."""
        if self._best_parameters:
            self._optimizer.set_parameters(self._best_parameters)
        progress = self._progress
        if progress.before and progress.after and progress.after.loss >= progress.before.loss:
            self.reporter.warn("the held-out loss did not fall: the adapter is no better on this data than at first")
        forgetting = self._measure_forgetting()
        if forgetting is not None and forgetting.warning:
            self.reporter.warn(forgetting.warning)
        trainable = self.adapter.trainable_parameters
        return TrainingReport(
            steps=progress.step,
            epochs=progress.step / self.batches.steps_per_epoch,
            tokens=progress.tokens,
            seconds=progress.seconds,
            train_loss=progress.loss_sum / max(1, progress.label_tokens),
            before=progress.before,
            after=progress.after,
            best_step=progress.stopping.best_step,
            evaluations=progress.stopping.evaluations,
            stopped_early=progress.stopping.is_due and progress.step < self.batches.steps,
            trainable_parameters=trainable,
            total_parameters=self.base.num_parameters + trainable,
            data=self._data_report,
            forgetting=forgetting,
            environment={
                **self._environment,
                "batch_tokens": progress.batch_tokens,
                **({"continued": progress.continued} if progress.continued else {}),
            },
        )

    def curve(self) -> LossCurve:
        """Return the losses by step."""
        return self._curve.curve().thinned()

    def _measure_forgetting(self) -> Forgetting | None:
        """Compare the model with its base on general prompts; None if the base cannot render or hold them."""
        self.reporter.report_phase("measuring forgetting")
        try:
            if self._only is not None:
                general = GeneralDivergence(self.base, PackedDecoder(self.base.model, adapter=""))
                after = general.measure(PackedDecoder(self.base.model, adapter=self._only))
            else:
                decoder = choose_decoder(self.base)
                self.adapter.disable()
                try:
                    general = GeneralDivergence(self.base, decoder)
                finally:
                    self.adapter.enable()
                after = general.measure(decoder)
        except errors.InvalidDataset:
            return None
        except errors.Diverged as error:
            self.reporter.warn(f"forgetting was not measured: {error}")
            return None
        return general.report(self._progress.divergence, after)

    def close(self) -> None:
        """Release the optimizer's memory and turn dropout off; the adapter's parameters get memory of their own."""
        self._optimizer.release()
        self.base.model.eval()
