"""Training adapters: one, or several on one base whose steps are computed together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data import splitting
from finch_hub.engine.data.report import data_report
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.decoder.decoder import Decoder, decoder_of
from finch_hub.engine.rank import automatic
from finch_hub.engine.training import environment, gradients
from finch_hub.engine.training.progress import Progress
from finch_hub.engine.training.run import Run, ShouldStop
from finch_hub.engine.training.state import BatchTokens
from finch_hub.specs.events import Report, silent
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig

_ESTIMATED_SHARE = 64  # of all examples that are learnt, one is computed for the estimate of the time, twice


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """An adapter, on its base and enabled, and the evidence of its training."""

    adapter: AttachableAdapter
    report: TrainingReport


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
    adapter: AttachableAdapter | None = None,
    batch_tokens: BatchTokens | None = None,
) -> Trained:
    """Train an adapter on examples; the best one by held-out loss is what remains, where there is validation data.

    Randomness is a function of seed and step alone, so a training that is resumed from a checkpoint ends with the
    same bytes as one that was never interrupted, on a CPU with the same number of threads.

    Args:
        base: stays as it is.
        config: shape of the adapter.
        training: everything else.
        examples: to learn.
        validation: held-out examples; None splits off the share that `training` says.
        system: system prompt of the examples that have none.
        workdir: where checkpoints are kept; None keeps none.
        report: takes events.
        should_stop: asked between steps and between batches of an evaluation.
        resume: go on from the newest checkpoint in `workdir`.
        adapter: on this base already, to be trained further; None attaches a new one.
        batch_tokens: of the report of a training that is to be repeated to the byte, whose memory may have run out.

    Raises:
        InvalidDataset: examples that leave nothing to learn.
        InvalidSpec: settings that don't go together, or a module that the base doesn't have.
        Diverged: the loss or a gradient is no longer finite.
        InvalidCheckpoint: the work directory belongs to other work.
        TrainingFailed: memory does not suffice for one example.
        Interrupted: `should_stop` said so.

    """
    progress = Progress(report, base.device)
    with computing(training.threads):
        data = prepare(base, training, examples, validation, system=system, progress=progress)
        finds_rank = adapter is None and config.rank == "auto"
        if finds_rank:
            automatic.check_data(data.train_set, data.held_out)
        attached = adapter or automatic.begin(base, config, data.train_set, seed=training.seed, say=progress.message)
        try:
            decoder = decoder_of(
                base,
                packing=training.packing,
                gradient_checkpointing=training.gradient_checkpointing,
                remember=(*data.train_set, *data.held_out) if training.epochs > 1 else (),
            )
            run = Run(
                base,
                attached,
                decoder,
                training,
                data.train_set,
                data.held_out,
                workdir=workdir,
                progress=progress,
                should_stop=should_stop,
                batch_tokens=batch_tokens,
            )
            try:
                if resume:
                    run.resume()
                (seconds,) = estimate(decoder, [run])
                described = data_report(
                    data.examples, data.validation, data.train_set, steps=run.steps, seconds=seconds
                )
                progress.report("data", described)
                progress.phase("training")
                while run.ready():
                    (failure,) = step(decoder, [run])
                    if failure is not None:
                        raise failure
                finished = run.finish(described)
            finally:
                run.close()
            if finds_rank:
                progress.phase("choosing the rank")
                attached, finished = _shrunk(base, attached, config, data.held_out, finished)
            return Trained(adapter=attached, report=finished)
        except BaseException:
            if adapter is None:
                attached.detach()
            raise


def _shrunk(
    base: Base,
    adapter: AttachableAdapter,
    config: LoRAConfig,
    held_out: Sequence[TokenizedExample],
    report: TrainingReport,
) -> tuple[AttachableAdapter, TrainingReport]:
    """Cut the adapter to the directions it needs, and say so in the report."""
    if report.after is None:
        raise AssertionError("a rank is chosen by held-out data, and the last step measures on it")
    smaller, metrics, chosen = automatic.shrink(
        base,
        adapter,
        lambda: evaluation.measure(base, held_out),
        uncut_loss=report.after.loss,
        tolerance=config.rank_tolerance,
        budget=config.rank_budget,
    )
    parameters = smaller.trainable_parameters
    total = report.total_parameters - report.trainable_parameters + parameters
    return smaller, report.evolve(after=metrics, rank=chosen, trainable_parameters=parameters, total_parameters=total)


def _check(base: Base, training: TrainingConfig, examples: Sequence[Example]) -> None:
    if not examples:
        raise errors.InvalidDataset(errors.Problem(what="there are no examples", fix="give at least one"))
    if training.max_length is not None and training.max_length > base.context:
        what = f"{training.max_length:,} tokens are more than the base's context of {base.context:,}"
        raise errors.InvalidSpec(errors.Problem(where="max_length", what=what, fix="lower it"), subject="training")


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Examples as they are given, and as they are learnt."""

    examples: Sequence[Example]
    validation: Sequence[Example]
    train_set: Sequence[TokenizedExample]
    held_out: Sequence[TokenizedExample]


def prepare(
    base: Base,
    training: TrainingConfig,
    examples: Sequence[Example],
    validation: Sequence[Example] | None,
    *,
    system: str | None,
    progress: Progress,
) -> Data:
    """Split and tokenise, and fit the base's attention to the lengths.

    Raises:
        InvalidDataset: examples that leave nothing to learn.
        InvalidSpec: examples may be longer than the base's context.

    """
    _check(base, training, examples)
    progress.phase("tokenizing")
    if validation is None:
        examples, validation = splitting.split(examples, training.validation, training.seed)
    length = training.max_length or min(base.context, 2048)
    train_set = tokenize_all(examples, base.tokenizer, system=system, max_length=length)
    held_out = tokenize_all(validation, base.tokenizer, system=system, max_length=length, subject="validation data")
    base.fit_attention(max(len(example) for example in (*train_set, *held_out)))
    return Data(examples=examples, validation=validation, train_set=train_set, held_out=held_out)


def estimate(decoder: Decoder, runs: Sequence[Run]) -> list[float | None]:
    """Return about how many seconds all steps of each run take on this device, computed together, from a few examples.

    The same go first, untimed: threads start, memory is got, weights and frozen states are prepared. Both together cost
    a small share of what they estimate. Few examples take longer than many for each token, by up to twice.
    None for a run that is over already, or if memory doesn't suffice, which the steps will deal with.
    """
    coming = [run for run in runs if not run.done]
    if not coming:
        return [None] * len(runs)
    left = max(1, sum(run.examples for run in coming) // _ESTIMATED_SHARE)
    some: list[tuple[Run, tuple[int, ...]]] = []
    for run in coming:
        if left > 0:
            rows = run.micro_batches()[0][:left]
            some.append((run, rows))
            left -= len(rows)
    timed, micro = [run for run, _ in some], [[rows] for _, rows in some]
    try:
        gradients.accumulate(decoder, timed, micro)
        _wait_for(timed[0].base.device)
        began = time.monotonic()
        gradients.accumulate(decoder, timed, micro)
        _wait_for(timed[0].base.device)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return [None] * len(runs)
    finally:
        for run in timed:
            run.clear()
    per_token = (time.monotonic() - began) / sum(run.lengths[row] for run, rows in some for row in rows)

    def seconds(run: Run) -> float:
        """All tokens that are computed until the run ends, those of the others included."""
        return per_token * sum(
            min(run.steps, other.steps) * sum(other.lengths) / other.steps_per_epoch for other in coming
        )

    return [None if run.done else seconds(run) for run in runs]


def step(decoder: Decoder, runs: Sequence[Run]) -> list[errors.Diverged | None]:
    """Do one step of every run, their gradients computed together; return what went wrong with each.

    Where memory runs out, micro-batches are halved from here on; the examples of a step, and what its gradient is
    divided by, stay the same.

    Args:
        decoder: a `PackedDecoder` where there are several runs.
        runs: each of which is ready.

    Raises:
        TrainingFailed: memory does not suffice for one example.

    """
    began = time.monotonic()
    while True:
        micro = [run.micro_batches() for run in runs]
        try:
            losses = gradients.accumulate(decoder, runs, micro)
            if len(runs) > 1 and not all(run.finite for run in runs):
                # They went through the same products, where what is no number spoils all. Apart, it is one run's own.
                losses = [gradients.accumulate(decoder, [run], [own])[0] for run, own in zip(runs, micro, strict=True)]
            break
        except (RuntimeError, MemoryError) as error:  # CUDA's is a RuntimeError
            if not _is_out_of_memory(error):
                raise
        _shrink(runs, micro)
    seconds = time.monotonic() - began
    failures: list[errors.Diverged | None] = []
    for run, loss in zip(runs, losses, strict=True):
        try:
            run.update(loss, seconds)
            failures.append(None)
        except errors.Diverged as failure:
            failures.append(failure)
    return failures


def _shrink(runs: Sequence[Run], micro: Sequence[Sequence[Sequence[int]]]) -> None:
    """Halve what is computed at once."""
    several = [run for run, some in zip(runs, micro, strict=True) if any(len(rows) > 1 for rows in some)]
    if not several:
        longest = max(max(run.lengths) for run in runs)
        raise errors.TrainingFailed(
            f"memory does not suffice for one example of up to {longest:,} tokens; lower max_length, or turn "
            "gradient_checkpointing on"
        )
    for run, some in zip(runs, micro, strict=True):
        if run in several:
            run.limit(max(len(rows) * max(run.lengths[row] for row in rows) for rows in some) // 2)
    if runs[0].base.device.type == "cuda":
        torch.cuda.empty_cache()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def computing(threads: int | None) -> Iterator[None]:
    """Compute with so many threads for a while (None: one per physical core), and keep torch's random numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or environment.physical_cores())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)
