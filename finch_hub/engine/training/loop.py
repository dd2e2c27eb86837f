"""Training loop: setup, evaluation, checkpoint, step, and the report at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.decoder.decoder import Decoder, choose_decoder
from finch_hub.engine.decoder.forward_check import check_forward
from finch_hub.engine.numerics.threads import use_threads
from finch_hub.engine.rank import reduction, starting_adapter
from finch_hub.engine.training.data import prepare_data
from finch_hub.engine.training.duration import estimate_seconds
from finch_hub.engine.training.gradients import MicroBatches, accumulate_gradients, is_out_of_memory
from finch_hub.engine.training.interruption import ShouldStop, stop_on_request
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.engine.training.resume_state import BatchTokens
from finch_hub.engine.training.run import TrainingRun
from finch_hub.progress import listen
from finch_hub.specs.events import Report, silent
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """Trained adapter, enabled on its base, the report of its training, and its losses by step."""

    adapter: AttachableAdapter
    report: TrainingReport
    curve: LossCurve


def train(
    base: Base,
    config: LoRAConfig,
    training: TrainingConfig,
    examples: Sequence[Example],
    validation: Sequence[Example] | None = None,
    *,
    system: str | None = None,
    workdir: Path | None = None,
    report: Report = silent,
    should_stop: ShouldStop = lambda: None,
    resume: bool = True,
    owns_workdir: bool = False,
    adapter: AttachableAdapter | None = None,
    batch_tokens: BatchTokens | None = None,
) -> Trained:
    """Train an adapter on examples; with validation data, return the one with the lowest held-out loss.

    Randomness depends only on the seed and the step. So a resumed training ends with the same bytes as an
    uninterrupted one, on a CPU with the same number of threads.

    Args:
        base: base model; its weights do not change.
        config: shape of the adapter.
        training: all other settings.
        examples: examples to learn.
        validation: held-out examples; None splits off the share that `training` gives.
        system: system prompt of the examples that have none.
        workdir: folder of the checkpoints; None keeps none.
        report: receiver of events.
        should_stop: called between steps, and between batches of an evaluation.
        resume: whether to continue from the newest checkpoint in `workdir`. If it was written on another machine or
            with other versions, the report's environment says so in `continued`.
        owns_workdir: whether checkpoints of a different training are removed, with a warning, instead of refused.
        adapter: adapter on this base to train further; None attaches a new one.
        batch_tokens: bounds from the report of an earlier training, to repeat it to the byte if memory ran out.

    Raises:
        InvalidDataset: the examples have nothing to learn.
        InvalidSpec: the settings contradict each other, or name a module that the base does not have.
        Diverged: the loss or a gradient is not finite.
        InvalidCheckpoint: the work directory belongs to a different training.
        TrainingFailed: memory is too small for a single example.
        Interrupted: a stop was requested.
    """
    reporter = ProgressReporter(report, base.device)
    with use_threads(training.threads), listen(reporter.report_advance):
        data = prepare_data(
            base, training, examples, validation, system=system, reporter=reporter, should_stop=should_stop
        )
        finds_rank = adapter is None and config.rank == "auto"
        if finds_rank:
            starting_adapter.check_data(data.train_set, data.held_out)
        with listen(stop_on_request(reporter.report_advance, should_stop)):
            attached = adapter or starting_adapter.attach(
                base, config, data.train_set, seed=training.seed, report_message=reporter.report_message
            )
        try:
            decoder = choose_decoder(
                base,
                packing=training.packing,
                gradient_checkpointing=training.gradient_checkpointing,
                repeated=(data.train_set, data.held_out) if training.epochs > 1 else (),
            )
            if remark := check_forward(base).remark:
                reporter.report_message(remark)
            run = TrainingRun(
                base,
                attached,
                decoder,
                training,
                data,
                workdir=workdir,
                reporter=reporter,
                should_stop=should_stop,
                batch_tokens=batch_tokens,
            )
            try:
                if resume:
                    run.resume(owns_workdir=owns_workdir)
                run.measure_start()
                (seconds,) = estimate_seconds(decoder, [run])
                run.announce(seconds)
                while begin_step(run):
                    (failure,) = take_step(decoder, [run])
                    if failure is not None:
                        raise failure
                finished, curve = run.finish(), run.curve()
            finally:
                run.close()
            if finds_rank:
                reporter.report_phase("choosing the rank")
                attached, finished = _reduce_rank(base, attached, config, data.held_out, finished)
            return Trained(adapter=attached, report=finished, curve=curve)
        except BaseException:
            if adapter is None:
                attached.detach()
            raise


def begin_step(run: TrainingRun) -> bool:
    """Evaluate, stop or save if it is due, and return whether there is another step."""
    run.evaluate_if_due()
    if run.is_finished:
        return False
    run.stop_if_requested()
    run.save_if_due()
    return True


def take_step(decoder: Decoder, runs: Sequence[TrainingRun]) -> list[errors.Diverged | None]:
    """Take one step of every run with gradients computed together, and return each run's failure.

    If memory runs out, micro-batches are halved from this step on. The examples of a step and the divisor of its
    gradient stay the same. Several runs need a `PackedDecoder`.
    """
    began = time.monotonic()
    while True:
        micro_batches = [run.micro_batches() for run in runs]
        try:
            losses = accumulate_gradients(decoder, runs, micro_batches)
            if len(runs) > 1 and not all(run.has_finite_gradients() for run in runs):
                # The runs share matrix products, so one run's NaN reaches all. Recompute each alone to find it.
                losses = [
                    accumulate_gradients(decoder, [run], [batches])[0]
                    for run, batches in zip(runs, micro_batches, strict=True)
                ]
            break
        except (RuntimeError, MemoryError) as error:  # CUDA raises a RuntimeError
            if not is_out_of_memory(error):
                raise
        _halve_micro_batches(runs, micro_batches)
    seconds = time.monotonic() - began
    failures: list[errors.Diverged | None] = []
    for run, loss in zip(runs, losses, strict=True):
        try:
            run.apply_gradients(loss, seconds)
            failures.append(None)
        except errors.Diverged as failure:
            failures.append(failure)
    return failures


def _halve_micro_batches(runs: Sequence[TrainingRun], micro_batches: Sequence[MicroBatches]) -> None:
    is_divisible = False
    for run, batches in zip(runs, micro_batches, strict=True):
        if any(len(rows) > 1 for rows in batches):
            is_divisible = True
            lengths = run.batches.lengths
            run.limit_micro_batches(max(len(rows) * max(lengths[row] for row in rows) for rows in batches) // 2)
    if not is_divisible:
        longest = max(max(run.batches.lengths) for run in runs)
        raise errors.TrainingFailed(
            f"out of memory on a single example of up to {longest:,} tokens (lower max_length, or turn "
            "gradient_checkpointing on)"
        )
    if runs[0].base.device.type == "cuda":
        torch.cuda.empty_cache()


def _reduce_rank(
    base: Base,
    adapter: AttachableAdapter,
    config: LoRAConfig,
    held_out: Sequence[TokenizedExample],
    report: TrainingReport,
) -> tuple[AttachableAdapter, TrainingReport]:
    """Replace the adapter by one of the ranks that it needs, and return it with its report."""
    if report.after is None:
        raise AssertionError("an automatic rank needs held-out data, and the last step evaluates on it")
    reduced, metrics, choice = reduction.reduce_rank(base, adapter, config, held_out, report.after.loss)
    parameters = reduced.trainable_parameters
    total = report.total_parameters - report.trainable_parameters + parameters
    return reduced, report.evolve(after=metrics, rank=choice, trainable_parameters=parameters, total_parameters=total)
