"""Training one adapter: the loop of steps, evaluations and checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapter import LoRAAdapter, attach
from finch_hub.engine.bases import Base
from finch_hub.engine.data import batches, splitting
from finch_hub.engine.data.report import data_report
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all
from finch_hub.engine.training import Interrupted, Interruption, checkpoint, environment, evaluation, schedule
from finch_hub.engine.training.decoder import Head, decoder_of
from finch_hub.engine.training.loss import head_loss
from finch_hub.engine.training.optimizer import FlatAdamW
from finch_hub.engine.training.progress import Progress, Report, silent
from finch_hub.engine.training.stopping import Stopping
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import DataReport, TokenMetrics, TrainingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value

_CHECKPOINT_SECONDS = 30.0
_SMOOTHING = 0.9  # of the reported loss: about the last ten steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """An adapter, on its base and enabled, and the evidence of its training."""

    adapter: LoRAAdapter
    report: TrainingReport


class _State(Value):
    """What the loop knows beside tensors; replaced after every step, stored in checkpoints."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    label_tokens: int = 0
    smoothed_loss: float | None = None
    stopping: Stopping = Stopping()
    before: TokenMetrics | None = None
    after: TokenMetrics | None = None
    evaluated_step: int | None = None
    batch_tokens: int | None = None


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
    should_stop: Callable[[], Interruption | None] = lambda: None,
    resume: bool = True,
    adapter: LoRAAdapter | None = None,
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

    Raises:
        InvalidDataset: examples that leave nothing to learn.
        InvalidSpec: settings that don't go together, or a module that the base doesn't have.
        Diverged: the loss or a gradient is no longer finite.
        InvalidCheckpoint: the work directory belongs to other work.
        TrainingFailed: memory does not suffice for one example.
        Interrupted: `should_stop` said so.

    """
    progress = Progress(report, base.device)
    if validation is None:
        examples, validation = splitting.split(examples, training.validation, training.seed)
    _check(training, validation)
    with _threads(training.threads):
        progress.phase("tokenizing")
        max_length = training.max_length or min(base.context, 2048)
        train_set = tokenize_all(examples, base.tokenizer, system=system, max_length=max_length)
        held_out = tokenize_all(
            validation, base.tokenizer, system=system, max_length=max_length, subject="validation data"
        )
        own = adapter is None
        adapter = adapter or attach(base, config, seed=training.seed)
        try:
            run = _Run(base, adapter, training, train_set, held_out, workdir, progress, should_stop)
            data = data_report(examples, validation, train_set, steps=run.steps, seconds=None)
            progress.report("data", data)
            if resume:
                run.resume()
            run.loop()
        except BaseException:
            if own:
                adapter.detach()
            raise
        return Trained(adapter=adapter, report=run.finish(data))


class _Run:
    """One training in progress."""

    def __init__(
        self,
        base: Base,
        adapter: LoRAAdapter,
        training: TrainingConfig,
        train_set: Sequence[TokenizedExample],
        held_out: Sequence[TokenizedExample],
        workdir: Path | None,
        progress: Progress,
        should_stop: Callable[[], Interruption | None],
    ) -> None:
        self.base, self.adapter, self.training = base, adapter, training
        self.train_set, self.held_out = train_set, held_out
        self.workdir, self.progress, self.should_stop = workdir, progress, should_stop
        self.lengths = [len(example) for example in train_set]
        self.labels = [int(example.labels.sum()) for example in train_set]
        per_epoch = math.ceil(len(train_set) / (training.batch_size * training.gradient_accumulation))
        self.per_epoch = per_epoch
        self.steps = min(training.epochs * per_epoch, training.max_steps or training.epochs * per_epoch)
        self.warmup = schedule.warmup_steps(training, self.steps)
        if self.warmup >= self.steps > 1:
            what = f"the warm-up takes {self.warmup} steps, the whole training {self.steps}"
            raise errors.InvalidSpec(errors.Problem(what=what, where="warmup_steps", fix="shorten it or train longer"))
        base.fit_attention(max(self.lengths + [len(example) for example in held_out]))
        self.decoder = decoder_of(
            base, packing=training.packing, gradient_checkpointing=training.gradient_checkpointing
        )
        self.head = Head(base.model)
        self.optimizer = FlatAdamW(adapter.parameters(), training)
        self.best: list[Tensor] | None = None
        self.state = _State(
            stopping=Stopping(patience=training.patience, min_improvement=training.min_improvement),
            batch_tokens=training.batch_tokens,
        )
        self.identity = _identity(base, adapter, training, train_set, held_out)
        self.last_checkpoint = time.monotonic()
        self.plan: tuple[int, list[tuple[int, ...]]] | None = None

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        if self.workdir is None:
            return
        found, damaged = checkpoint.newest(self.workdir, self.identity)
        for problem in damaged:
            self.progress.warn(f"a checkpoint was passed over: {problem}")
        if found is None:
            return
        self.state = _State.of(dict(found.state))
        self.optimizer.load({key[1:]: value for key, value in found.tensors.items() if key.startswith("=")})
        best = [found.tensors[key] for key in sorted(found.tensors) if key.startswith("best.")]
        self.best = [tensor.to(self.base.device) for tensor in best] or None
        self.progress.phase(f"resumed after step {self.state.step}")

    def loop(self) -> None:
        """Run until all steps are done or patience is used up."""
        self.progress.phase("training")
        while True:
            if self._evaluation_due():
                self._evaluate()
            if self.state.step >= self.steps or self.state.stopping.due:
                return
            self._obey()
            self._checkpoint_when_due()
            began = time.monotonic()
            self._step()
            self.state = self.state.evolve(seconds=self.state.seconds + time.monotonic() - began)

    def finish(self, data: DataReport) -> TrainingReport:
        """Restore the best parameters and write the report."""
        if self.best is not None:
            self.optimizer.restore(self.best)
        self.optimizer.release()
        state = self.state
        if state.before and state.after and state.after.loss >= state.before.loss:
            self.progress.warn("the held-out loss did not fall: the adapter is no better than the base on this data")
        trainable = self.adapter.trainable_parameters
        return TrainingReport(
            steps=state.step,
            epochs=state.step / self.per_epoch,
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
            environment={**environment.describe(self.base), "batch_tokens": state.batch_tokens},
        )

    def _evaluation_due(self) -> bool:
        step = self.state.step
        if not self.held_out or self.state.evaluated_step == step:
            return False
        wanted = self.training.evaluate_every or 1.0
        every = wanted if isinstance(wanted, int) else max(1, round(wanted * self.per_epoch))
        return step % every == 0 or step >= self.steps

    def _evaluate(self) -> None:
        step = self.state.step
        try:
            metrics = evaluation.evaluate(
                self.decoder, self.head, self.held_out, device=self.base.device, between=self._obey
            )
        except errors.Diverged as error:
            raise self._diverged(step, str(error)) from None
        self.progress.metrics(step, metrics)
        if step == 0:
            self.state = self.state.evolve(before=metrics, evaluated_step=step)
            return
        changes: dict[str, Any] = {"evaluated_step": step, "stopping": self.state.stopping.after(metrics.loss, step)}
        if self.state.stopping.improves(metrics.loss):
            self.best = self.optimizer.snapshot()
            changes["after"] = metrics
        self.state = self.state.evolve(**changes)

    def _obey(self) -> None:
        kind = self.should_stop()
        if kind is None:
            return
        if kind == "hand_back":
            self._save()
        raise Interrupted(kind)

    def _checkpoint_when_due(self) -> None:
        every = self.training.checkpoint_every
        due = self.state.step % every == 0 if every else time.monotonic() - self.last_checkpoint > _CHECKPOINT_SECONDS
        if due and self.state.step > 0:
            self._save()

    def _save(self) -> None:
        if self.workdir is None:
            return
        tensors = {f"={name}": tensor for name, tensor in self.optimizer.state().items()}
        tensors |= {f"best.{number}": tensor for number, tensor in enumerate(self.best or ())}
        made = checkpoint.Checkpoint(
            step=self.state.step,
            identity=self.identity,
            state=self.state.model_dump(mode="json", exclude_defaults=True),
            tensors=tensors,
        )
        checkpoint.save(self.workdir, made, keep=self.training.keep_checkpoints)
        self.last_checkpoint = time.monotonic()

    def _step(self) -> None:
        step = self.state.step
        epoch, place = divmod(step, self.per_epoch)
        if self.plan is None or self.plan[0] != epoch:
            steps = batches.plan_epoch(
                self.lengths,
                batch_size=self.training.batch_size,
                accumulation=self.training.gradient_accumulation,
                seed=self.training.seed,
                epoch=epoch,
                by_length=self.decoder.pads,
            )
            self.plan = (epoch, steps)
        rows = self.plan[1][place]
        label_tokens = sum(self.labels[row] for row in rows)
        loss = self._gradients(rows, label_tokens)
        rate = self.training.learning_rate * schedule.factor(
            step, steps=self.steps, warmup=self.warmup, schedule=self.training.schedule
        )
        norm = self.optimizer.step(rate)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            raise self._diverged(step + 1, "the loss or its gradient is not finite")
        smoothed = self.state.smoothed_loss
        smoothed = loss if smoothed is None else _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
        if smoothed > math.log(self.head.weight.shape[0]) + 1.0:
            # Guessing all tokens alike has the loss ln V: whoever is worse than that has lost what it knew.
            raise self._diverged(step + 1, f"the loss is {smoothed:.2f}, worse than guessing")
        self.state = self.state.evolve(
            step=step + 1,
            tokens=self.state.tokens + sum(self.lengths[row] for row in rows),
            label_tokens=self.state.label_tokens + label_tokens,
            loss_sum=self.state.loss_sum + loss * label_tokens,
            smoothed_loss=smoothed,
        )
        if self.progress.due or self.state.step == self.steps:
            self._report_progress(rate, float(norm))

    def _gradients(self, rows: Sequence[int], label_tokens: int) -> float:
        """Accumulate the gradient of the mean loss over the step's label tokens; return that loss."""
        while True:
            micro = batches.micro_batches(
                rows, self.lengths, batch_size=self.training.batch_size, batch_tokens=self.state.batch_tokens
            )
            self.optimizer.zero_grad()
            total = torch.zeros((), device=self.base.device)
            try:
                for number, some in enumerate(micro):
                    batch = batches.pack(
                        [self.train_set[row] for row in some],
                        share_prefix=self.training.share_prefix and self.decoder.shares_prefix,
                    ).to(self.base.device)
                    seed = _seed(self.training.seed, self.state.step, number)
                    hidden = self.decoder.hidden(batch, seed=seed)
                    loss = head_loss(hidden, self.head.weight, self.head.bias, batch.targets, scale=1.0 / label_tokens)
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += loss.detach()
                return float(total)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                largest = max(len(some) * max(self.lengths[row] for row in some) for some in micro)
            self._shrink(largest, single=all(len(some) == 1 for some in micro))

    def _shrink(self, largest: int, *, single: bool) -> None:
        """Halve the token budget of micro-batches from here on; the step's examples stay the same."""
        if single:
            raise errors.TrainingFailed(
                f"memory does not suffice for one example of up to {max(self.lengths):,} tokens; lower max_length, "
                "or turn gradient_checkpointing on"
            )
        self.state = self.state.evolve(batch_tokens=max(1, largest // 2))
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
        self.progress.warn(f"out of memory: micro-batches of {largest // 2:,} tokens from step {self.state.step} on")

    def _report_progress(self, rate: float, norm: float) -> None:
        state = self.state
        speed = state.tokens / state.seconds if state.seconds > 0 else None
        left = state.seconds / state.step * (self.steps - state.step) if state.seconds > 0 else None
        self.progress.progress(
            step=state.step,
            steps=self.steps,
            epoch=round(state.step / self.per_epoch, 3),
            loss=state.smoothed_loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_per_second=speed,
            seconds_left=left,
        )

    def _diverged(self, step: int, what: str) -> errors.Diverged:
        kept = sorted(self.workdir.glob("step-*")) if self.workdir and self.workdir.is_dir() else []
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        return errors.Diverged(f"{what} at step {step}; {good}; a lower learning rate may help")


def _check(training: TrainingConfig, validation: Sequence[Example]) -> None:
    if not validation and training.patience is not None:
        raise errors.InvalidSpec(
            errors.Problem(
                where="patience",
                what="early stopping needs validation data, and there is none",
                fix="give a validation file, or a share by `validation`",
            ),
            subject="training",
        )


def _identity(
    base: Base,
    adapter: LoRAAdapter,
    training: TrainingConfig,
    train_set: Sequence[TokenizedExample],
    held_out: Sequence[TokenizedExample],
) -> dict[str, str]:
    """Name all that the bytes of the result depend on, by parts, so that a refusal can say which one changed."""
    data = hashlib.sha256()
    for part in (train_set, held_out):
        for example in part:
            data.update(len(example).to_bytes(8, "little") + example.input_ids.tobytes() + example.labels.tobytes())
        data.update(b"|")
    spec = training.model_dump_json(exclude={"keep_checkpoints", "checkpoint_every"}) + adapter.config.model_dump_json()
    return {
        "data": data.hexdigest(),
        "specification": hashlib.sha256(spec.encode()).hexdigest(),
        "base": base.fingerprint,
        "environment": environment.digest(base),
    }


def _seed(seed: int, step: int, micro_batch: int) -> int:
    """Mix a seed of 63 bits, for dropout, out of what identifies a micro-batch."""
    mixed = hashlib.sha256(f"{seed}:{step}:{micro_batch}".encode()).digest()
    return int.from_bytes(mixed[:8], "little") >> 1


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Compute with so many threads for a while, and keep torch's random numbers as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or environment.physical_cores())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)
