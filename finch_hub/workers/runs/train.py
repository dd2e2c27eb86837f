"""Train an adapter alone, or the adapters of several jobs in one step. To its supervisor, each job is one training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine.data import reading
from finch_hub.progress import listen
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.events import NewEvent
from finch_hub.specs.evidence import Evidence, LossCurve
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import Job, JobResult, TrainSpec
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.value import JsonObject, Value
from finch_hub.workers.runs import inputs, model_cache
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import AdapterOutcome, JobKind, Record
from finch_hub.workers.runs.model_cache import BaseOrder

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base
    from finch_hub.engine.training.group import Member, MemberResult
    from finch_hub.engine.training.loop import Trained
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores


_SAMPLES = 2  # if the settings do not say
_SAMPLES_SHARE = 0.02  # of the time of the training
_LEAST_SAMPLE_SECONDS = 1.0  # in which hardly any base answers with some words
_LEAST_SAMPLE_TOKENS = 8  # of an answer that was cut, if the settings do not ask for samples
_MOST_SAMPLE_SECONDS = 120.0
_METRICS = ("steps", "epochs", "tokens", "seconds", "train_loss", "stopped_early", "trainable_parameters")


class TrainOrder(Value):
    """What the child needs to train.

    Attributes:
        train: file of examples.
        validation: file of held-out examples; None holds some of `train` out.
        start: folder of the adapter that is trained further; None for a new one.
        batch_tokens: sizes of micro-batches by step, to repeat an earlier training.
    """

    base: BaseOrder
    spec: TrainSpec
    train: Path
    validation: Path | None
    start: Path | None = None
    batch_tokens: tuple[tuple[int, int | None], ...] | None = None


class TrainOutcome(AdapterOutcome[TrainingReport]):
    """What the child trained.

    Attributes:
        curve: losses by step.
        samples: file of the sample answers, None if there are none.
        validation: file of the examples that were held out, None if there are none.
    """

    curve: LossCurve
    samples: Path | None
    validation: Path | None
    validation_examples: int
    base: BaseDescription


def prepare(spec: TrainSpec, job: Job, stores: Stores, workdir: Path) -> TrainOrder:
    """Fetch the examples, and the version that the training goes on from."""
    validation = workdir / "validation.jsonl"
    base, start = model_cache.order_base(spec.base, stores), None
    if spec.start is not None:
        known, (start,) = inputs.fetch_files([spec.start], stores)
        base = model_cache.pin_base(base, known)
    return TrainOrder(
        base=base,
        start=start,
        spec=spec,
        train=inputs.fetch_examples(spec.train, workdir / "train.jsonl", stores),
        validation=inputs.fetch_examples(spec.validation, validation, stores) if spec.validation else None,
    )


def execute(order: TrainOrder, channel: Channel) -> TrainOutcome:
    """Train, and leave the best adapter by held-out loss in the attempt's folder."""
    channel.phase("importing")
    from finch_hub.engine.training import loop

    spec = order.spec
    base = channel.bases.load(order.base, say=channel.phase, dtype=spec.training.dtype)
    examples, validation = _read_data(order, channel)
    started = None
    if order.start is not None:
        from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter

        started = AttachableAdapter.load(order.start, base, dropout=order.spec.lora.dropout)
    trained = loop.train(
        base,
        spec.lora,
        spec.training,
        examples,
        validation,
        system=spec.system,
        workdir=channel.checkpoints,
        owns_workdir=True,
        report=channel.report,
        should_stop=channel.should_stop,
        batch_tokens=order.batch_tokens,
        adapter=started,
    )
    _compare_speed(trained.report, order, base)
    return _save(trained, order, channel, base, validation)


def execute_together(
    orders: Sequence[TrainOrder],
    channels: Sequence[Channel],
    on_end: Callable[[int, TrainOutcome | BaseException], None],
) -> None:
    """Train all orders in one step. Call `on_end` with the position, and the outcome or error, of each that has ended.

    Raises:
        TrainingFailed: memory does not suffice for the group.
        InvalidSpec: an order cannot be trained together with others.
    """

    def report(event: NewEvent) -> None:
        for channel in channels:
            channel.report(event)

    def say(text: str) -> None:
        report(NewEvent.phase(text))

    say("importing")
    from finch_hub.engine.training.group import train_group

    with listen(lambda advance: report(NewEvent.advance(advance))):
        base = channels[0].bases.load(orders[0].base, say=say, dtype=orders[0].spec.training.dtype)
    say(f"training together with {len(orders) - 1} others")
    members: list[Member] = []
    for position, (order, channel) in enumerate(zip(orders, channels, strict=True)):
        try:
            members.append(_make_member(order, channel, base, functools.partial(on_end, position)))
        except errors.FinchError as error:
            on_end(position, error)
    train_group(base, members)


def _make_member(
    order: TrainOrder, channel: Channel, base: Base, on_end: Callable[[TrainOutcome | BaseException], None]
) -> Member:
    from finch_hub.engine.training.group import Member
    from finch_hub.engine.training.loop import Trained

    examples, validation = _read_data(order, channel)

    def save(result: MemberResult) -> None:
        on_end(_save(result, order, channel, base, validation) if isinstance(result, Trained) else result)

    return Member(
        config=order.spec.lora,
        training=order.spec.training,
        examples=examples,
        validation=validation,
        system=order.spec.system,
        workdir=channel.checkpoints,
        report=channel.report,
        should_stop=channel.should_stop,
        on_end=save,
    )


def _read_data(order: TrainOrder, channel: Channel) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the examples to train on and those held out."""
    from finch_hub.engine.data import splitting

    examples = inputs.read_examples(order.train)
    if order.validation is not None:
        return examples, inputs.read_examples(order.validation)
    # Split here, not in the loop: compositions of this adapter are measured on the held-out part, so it is stored.
    training = order.spec.training
    if not training.validation:
        return examples, ()
    examples, validation = splitting.split_examples(examples, training.validation, training.seed)
    (channel.workdir / "validation.jsonl").write_bytes(reading.dump_examples(validation))
    return examples, validation


def _compare_speed(report: TrainingReport, order: TrainOrder, base: Base) -> None:
    """Let the dtype of this CPU be chosen again if the training was far slower than its measurement promises."""
    from finch_hub.engine.bases import precision

    if order.spec.training.dtype == "auto" and base.device.type == "cpu" and report.seconds > 0:
        # A token takes a multiplication and an addition for each weight, in the forward and in the backward pass.
        operations = 4 * base.num_parameters * report.tokens
        with contextlib.suppress(OSError):  # the result does not depend on this cache
            precision.doubt_if_slow(operations / report.seconds, cache=order.base.cache)


def _save(
    trained: Trained, order: TrainOrder, channel: Channel, base: Base, validation: Sequence[Example]
) -> TrainOutcome:
    """Write the adapter to the attempt's folder, detach it from its base, and return the outcome."""
    try:
        trained.adapter.save(channel.workdir / "adapter")
        samples = _sample_answers(trained, order, channel, base, validation)
    finally:
        trained.adapter.detach()
    data = trained.report.data.evolve(reading=order.spec.reading)
    return TrainOutcome(
        adapter=channel.workdir / "adapter",
        environment=trained.report.environment,
        curve=trained.curve,
        samples=samples,
        validation=channel.workdir / "validation.jsonl" if validation else None,
        validation_examples=len(validation),
        report=trained.report.evolve(data=data),
        base=model_cache.describe_base(base, order.base),
    )


def _sample_answers(
    trained: Trained, order: TrainOrder, channel: Channel, base: Base, validation: Sequence[Example]
) -> Path | None:
    """Write answers before and after the training to a file, if they are wanted. It succeeds without them.

    Before it, the version answers from which it went on, or else the base.
    """
    spec = order.spec
    count, seconds, least_tokens = spec.training.samples, _MOST_SAMPLE_SECONDS, 0
    if count is None:
        least_tokens = _LEAST_SAMPLE_TOKENS
        count, seconds = _SAMPLES, min(seconds, _SAMPLES_SHARE * trained.report.seconds)
    if not count or not validation or seconds < _LEAST_SAMPLE_SECONDS:
        return None
    from finch_hub.engine.inference.samples import sample_answers
    from finch_hub.engine.numerics.threads import use_threads
    from finch_hub.engine.training.interruption import Interrupted

    channel.report(NewEvent.phase("answering samples"))
    try:
        with use_threads(spec.training.threads), _attach_start(order, base) as start:
            samples = sample_answers(
                base,
                trained.adapter.name,
                validation,
                system=spec.system,
                count=count,
                seconds=seconds,
                least_tokens=least_tokens,
                start=start,
                should_stop=channel.should_stop,
            )
    except Interrupted:
        raise
    except Exception as error:  # the training succeeds without them
        what = f"no sample answers were kept: {type(error).__name__}"  # its text may quote a row
        channel.report(NewEvent(type="message", level="warn", message=what))
        return None
    if samples is None:
        return None
    file = channel.workdir / "samples.json"
    file.write_bytes(samples.evolve(start=spec.start).to_stored())
    return file


@contextlib.contextmanager
def _attach_start(order: TrainOrder, base: Base) -> Iterator[str | None]:
    """Attach the version that the training went on from in this context, and yield its name on the base."""
    if order.start is None:
        yield None
        return
    from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter

    start = AttachableAdapter.load(order.start, base, name="start")
    try:
        yield start.name
    finally:
        start.detach()


def finish(spec: TrainSpec, job: Job, outcome: TrainOutcome, stores: Stores) -> Record:
    """Store the adapter and the held-out examples, and register the version with both."""
    from finch_hub.registry import bases, datasets, values
    from finch_hub.storage import publishing
    from finch_hub.storage.base_registration import find_earlier_fingerprint

    validation, held_out = spec.validation, b""
    if validation is None and outcome.validation is not None:
        held_out = outcome.validation.read_bytes()
        validation = stores.artifacts.put(held_out)
    parents = (values.ParentVersion(reference=spec.start),) if spec.start is not None else ()
    description = publishing.Description(
        name=spec.adapter,
        kind="train",
        base=outcome.base,
        job_id=job.id,
        owner=job.owner,
        spec=spec.model_dump(mode="json"),
        lineage=values.Lineage(
            parents=parents, train_digest=spec.train, validation_digest=validation, seed=spec.training.seed
        ),
        metrics=_metrics(outcome.report),
        evidence=Evidence.of_training(outcome.report, outcome.curve),
        samples=outcome.samples.read_bytes() if outcome.samples is not None else None,
    )
    create_version = publishing.publish(outcome.adapter, stores, description, outcome.environment)
    earlier = find_earlier_fingerprint(outcome.base, stores)

    def record(session: Session) -> JobResult:
        base = bases.add(session, outcome.base, earlier_fingerprint=earlier, job_id=job.id)
        if held_out:
            datasets.add(
                session,
                digest=str(validation),
                format="messages",
                examples=outcome.validation_examples,
                size=len(held_out),
                of_jobs=True,
                check_stored=lambda: stores.artifacts.put(held_out),
            )
        return outcome.result_of(create_version(session, base))

    return record


def _metrics(report: TrainingReport) -> JsonObject:
    metrics = {name: getattr(report, name) for name in _METRICS}
    for name, quality in (("before", report.before), ("after", report.after)):
        if quality is not None:
            metrics[f"loss_{name}"] = quality.loss
            metrics[f"accuracy_{name}"] = quality.accuracy
            metrics[f"perplexity_{name}"] = quality.perplexity if quality.loss < 700 else None
    return metrics | (report.forgetting.metrics if report.forgetting else {})


def _repeat(version: AdapterVersion) -> TrainSpec:
    environment = version.lineage.environment
    spec = KIND.spec_of(version.spec)
    changes: dict[str, Any] = {"threads": environment.get("threads")}
    if spec.training.dtype == "auto" and environment.get("dtype") in ("float32", "bfloat16"):
        changes["dtype"] = environment["dtype"]
    start = next((parent.reference for parent in version.lineage.parents), None)
    return spec.evolve(start=start, training=spec.training.evolve(**changes))


def _pin(order: TrainOrder, version: AdapterVersion) -> TrainOrder:
    base = model_cache.pin_base(order.base, version.base)
    spec = order.spec.evolve(training=order.spec.training.evolve(samples=0))
    return order.evolve(base=base, spec=spec, batch_tokens=version.lineage.environment.get("batch_tokens"))


KIND = JobKind(
    spec=TrainSpec,
    order=TrainOrder,
    outcome=TrainOutcome,
    report=TrainingReport,
    about=lambda spec: spec.adapter,
    prepare=prepare,
    execute=execute,
    finish=finish,
    repeat=_repeat,
    pin=_pin,
)
